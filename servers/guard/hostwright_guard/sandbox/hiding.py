"""Secrets that a command was given, kept out of what it says.

Replaces exact values, and the encodings in which programs print them (base64, hex, percent), also
where a value is cut between two reads. A command that means to leak what it holds can do so in
other ways; who cannot have that uses a credential that only the gate holds. Pure.
"""

from __future__ import annotations

import base64
import re
import urllib.parse
from collections.abc import Iterable

MASK = b"[redacted]"


class Hiding:
    """One stream: feed it, send on what it gives back, then `rest`.

    Held back is only what may be the beginning of a value, so that an answer in parts is not
    delayed. `same_length`: what is put in the place of a value is as long as it was.
    """

    def __init__(self, values: Iterable[str], *, same_length: bool = False) -> None:
        forms = sorted({form for value in values for form in _forms(value)}, key=len, reverse=True)
        self._forms = forms
        self._pattern = re.compile(b"|".join(map(re.escape, forms))) if forms else None
        self._longest = max(map(len, forms), default=0)
        self._same_length = same_length
        self._held = b""

    def feed(self, data: bytes) -> bytes:
        if self._pattern is None:
            return data
        data = self._held + data
        shown = bytearray()
        at = 0
        settled = self._settled(data)
        for found in self._pattern.finditer(data):
            if found.start() >= settled:
                break
            shown += data[at : found.start()] + self._mask(found)
            at = found.end()
        keep = max(at, settled)
        shown += data[at:keep]
        self._held = data[keep:]
        return bytes(shown)

    def _settled(self, data: bytes) -> int:
        """Where the first value may begin that goes on in the next chunk."""
        for at in range(max(0, len(data) - self._longest + 1), len(data)):
            rest = data[at:]
            if any(len(form) > len(rest) and form.startswith(rest) for form in self._forms):
                return at
        return len(data)

    def _mask(self, found: re.Match[bytes]) -> bytes:
        return b"*" * len(found[0]) if self._same_length else MASK

    def rest(self) -> bytes:
        """What was held back; nothing follows."""
        held, self._held = self._held, b""
        return self._pattern.sub(self._mask, held) if self._pattern else held


def _forms(value: str) -> set[bytes]:
    raw = value.encode("utf-8", "surrogatepass")
    forms = {raw, raw.hex().encode(), raw.hex().upper().encode()}
    forms.add(base64.b64encode(raw))
    forms.add(base64.urlsafe_b64encode(raw))
    forms.add(urllib.parse.quote(raw, safe="").encode())
    forms.add(urllib.parse.quote_plus(raw).encode())
    # Without what the last, incomplete group of base64 would share with whatever follows.
    forms |= {base64.b64encode(raw[: len(raw) // 3 * 3])} if len(raw) >= 6 else set()
    return {form for form in forms if form}
