"""Fixtures of more than one module."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from .keeper_world import Open, keepers


@pytest.fixture
async def suite(tmp_path: Path) -> AsyncIterator[Open]:
    """Makes keepers over tiny servers."""
    async with keepers(tmp_path) as make:
        yield make
