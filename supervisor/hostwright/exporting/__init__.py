"""Manifests as other programs' deployment files: systemd, launchd, Compose, Kubernetes, and so on.

`suite` makes one plain model of what is to be exported, one module per format renders it to files,
`writing` puts them in place. `docs/export.md` is the page for the owner.

No value that may be a secret is ever in what is written: `values` decides, and where it is not sure
it leaves a reference for the owner to fill.
"""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module
from typing import Literal, cast, get_args

from hostwright.exporting.model import Export, Options, Suite

Format = Literal[
    "systemd", "launchd", "compose", "kubernetes", "server-json", "mcpb", "claude-plugin"
]
FORMATS: tuple[str, ...] = get_args(Format)


def render(form: Format, suite: Suite, options: Options) -> Export:
    """The files of one format, and what the owner still has to do."""
    module = import_module(f"hostwright.exporting.{form.replace('-', '_')}")
    return cast("Callable[[Suite, Options], Export]", module.render)(suite, options)
