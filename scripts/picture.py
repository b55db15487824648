"""Draws the README's picture: the status table of the daemon that runs here, as SVG.

`.venv/bin/python scripts/picture.py docs/status.svg` beside a running `make up`.
"""

from __future__ import annotations

import io
import re
import sys
from pathlib import Path

from rich.console import Console

from hostwright.cli.control import Control
from hostwright.cli.state import render

console = Console(record=True, width=100, file=io.StringIO(), force_terminal=True)
console.print("$ hostwright status", style="bold")
console.print(render(Control().status()))
svg = console.export_svg(title="hostwright")
# The picture must not fetch fonts from anywhere; the reader's own monospace will do.
svg = re.sub(r"@font-face \{.*?\}\s*", "", svg, flags=re.DOTALL)
Path(sys.argv[1]).write_text(svg, encoding="utf-8")
