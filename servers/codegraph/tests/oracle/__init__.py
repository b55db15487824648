"""What really happens when a project's own tests run, and how the graph compares with it."""

from __future__ import annotations

from pathlib import Path


def tracer_folder() -> str:
    """Where the pytest plugin `tracer` is imported from."""
    return str(Path(__file__).parent)
