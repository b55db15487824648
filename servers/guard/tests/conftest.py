"""What holds for every test of the guard server."""

from __future__ import annotations

from collections.abc import Iterator

import keyring
import pytest
from keyring.backends import fail


@pytest.fixture(autouse=True)
def no_real_keyring() -> Iterator[None]:
    """The keyring of whoever runs the tests is not theirs to write to."""
    before = keyring.get_keyring()
    keyring.set_keyring(fail.Keyring())
    yield
    keyring.set_keyring(before)
