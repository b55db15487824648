"""One supervisor for all tests of a module that only use it, and installations of one's own."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from .daemon_harness import Daemon, Installation


@pytest.fixture
def home(tmp_path: Path) -> Iterator[Installation]:
    """A fresh installation for one test, in the profile that asks nobody."""
    installation = Installation(tmp_path)
    try:
        yield installation
    finally:
        installation.close()


@pytest.fixture
def bare_home(home: Installation) -> Installation:
    """The same without our own server, for tests that are about others."""
    home.without_suite()
    return home


@pytest.fixture(scope="module")
def shared_home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Installation]:
    """An installation with friendly third-party servers of either era."""
    installation = Installation(tmp_path_factory.mktemp("shared"))
    installation.third_party("alpha", "--era", "modern", "--resources", "--tool", "shell_exec")
    installation.third_party("beta", "--era", "legacy", "--resources", "--many", "450")
    installation.third_party("gamma", "--page", "7", "--bad-entries")
    try:
        yield installation
    finally:
        installation.close()


@pytest.fixture(scope="module")
def gateway(shared_home: Installation) -> Iterator[Daemon]:
    """A supervisor over `shared_home`."""
    with shared_home.up() as daemon:
        yield daemon


@pytest.fixture(scope="module")
def token(shared_home: Installation) -> str:
    return shared_home.token("agent-one")
