"""How one value can be read: every spelling under which some program would take it for the same.

A rule is written against one spelling; whoever calls chooses another. So a value is turned into all
its readings, and a rule that closes holds when *any* of them fits, one that opens only when *all*
of them do. The readings: Unicode forms and case, characters that cannot be seen, percent-encoding
(up to three times over), `..`, `~` and links in paths, IDN, numbers as IPv4 addresses, and the two
ways in which parsers disagree about user names and backslashes in URLs.

Look-alikes (a Cyrillic `а`) are different letters and different domains; they are no reading.
"""

from __future__ import annotations

import contextlib
import ipaddress
import os
import re
import socket
import unicodedata
from collections.abc import Iterator
from urllib.parse import unquote

import idna

MAX_TEXT_CHARS = 65_536
"""A longer text is not judged: rules that close hold, rules that open do not."""
_DECODINGS = 3
_URL = re.compile(r"(?i)^[a-z][a-z0-9+.-]*:[\\/]{2,}|^[\\/]{2,}")
_UNSEEN = ("Cc", "Cf", "Cs")


def folded(text: str) -> str:
    """One spelling for all that differ in Unicode form, case, or by what cannot be seen."""
    if text.isascii() and text.isprintable():
        return text.lower().strip()  # all of that, for the texts that most are
    seen = "".join(char for char in text if unicodedata.category(char) not in _UNSEEN)
    once = unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", seen).casefold())
    return once.strip()


def spellings(text: str) -> list[str]:
    """The text, and what percent-decoding makes of it, as they are written."""
    found = [text]
    for _ in range(_DECODINGS):
        if (decoded := unquote(found[-1], errors="surrogateescape")) == found[-1]:
            break
        found.append(decoded)
    return found


def texts(text: str) -> set[str]:
    """Every reading as text: as it is, and folded."""
    plain = spellings(text)
    return {*plain, *(folded(one) for one in plain)}


def paths(text: str, folder: str) -> set[str]:
    """Every absolute path that this may name, with and without following links. Asks the disk."""
    return {path for one in spellings(text) for path in _places(one, folder)}


def _places(text: str, folder: str) -> Iterator[str]:
    named = {text, unicodedata.normalize("NFC", text), unicodedata.normalize("NFKC", text)}
    named |= {one.replace("\\", "/") for one in named}
    named |= {re.sub(r"(?i)^file:(//(localhost)?)?(?=/)", "", one.strip()) for one in named}
    named |= {os.path.expandvars(one) for one in named}
    for one in named:
        # To a program in C a NUL ends it early.
        for plain in {one, one.partition("\0")[0]}:
            joined = os.path.join(folder, os.path.expanduser(plain))  # noqa: PTH111, PTH118 - text
            yield _plain(joined)
            with contextlib.suppress(OSError, ValueError):
                yield os.path.realpath(joined)


def _plain(path: str) -> str:
    # POSIX lets two slashes at the beginning mean something else; nothing here does.
    return "/" + os.path.normpath(path).lstrip("/")


def is_inside(path: str, base: str) -> bool:
    """Whether an absolute path is `base` or below it, as written."""
    return path == base or path.startswith(base.rstrip("/") + "/")


def bases(text: str) -> set[str]:
    """The folder that a rule names, with and without following links."""
    path = os.path.expanduser(text)  # noqa: PTH111 - text
    return {_plain(path), os.path.realpath(path)}


def hosts(text: str) -> set[str]:
    """Every host that a URL, an address or a name may lead to; canonical where it is one."""
    found: set[str] = set()
    for one in spellings(text):
        for form in (one, unicodedata.normalize("NFKC", one)):
            bare = "".join(char for char in form if unicodedata.category(char) not in _UNSEEN)
            found |= {host for part in _authorities(bare.strip()) for host in _host(part)}
    return found


def _authorities(text: str) -> Iterator[str]:
    """What may stand for the host: parsers differ about backslashes and a second @."""
    if start := _URL.match(text):
        rest = text[start.end() :]
    elif text.lower().startswith("mailto:"):
        rest = text[7:]
    else:
        rest = text
    for ends in (r"[/?#]", r"[/?#\\]"):
        whole = re.split(ends, rest, maxsplit=1)[0]
        yield whole.rpartition("@")[2]
        if "@" in whole:
            yield whole.partition("@")[2].partition("@")[0]


def _host(part: str) -> Iterator[str]:
    if part.startswith("["):
        name = part[1:].partition("]")[0]
    elif part.count(":") > 1:
        name = part
    else:
        name = part.partition(":")[0]
    if name := unquote(name).strip():
        yield from canonical_hosts(name)


def canonical_hosts(name: str) -> set[str]:
    """A host name or address in the forms that are compared: ASCII, lower case, no last dot."""
    if address := _address(name):
        return address
    plain = folded(name).rstrip(".")
    found = {plain}
    with contextlib.suppress(UnicodeError):
        found.add(idna.encode(name, uts46=True).decode("ascii").lower().rstrip("."))
    if any(not one.isascii() for one in found) and len(found) > 1:
        found.discard(plain)
    found.discard("")
    return set[str]().union(*(_address(one) or {one} for one in found))


def _address(text: str) -> set[str]:
    """An IP address in every spelling that the C library takes, as one."""
    plain = text.strip("[]").partition("%")[0].rstrip(".")
    try:
        address = ipaddress.ip_address(plain)
    except ValueError:
        if not re.fullmatch(r"[0-9a-fA-FxX.]+", plain) or not plain[0].isdigit():
            return set()
        try:
            address = ipaddress.IPv4Address(socket.inet_aton(plain))
        except OSError:
            return set()
    found = {str(address)}
    if isinstance(address, ipaddress.IPv6Address):
        inner = address.ipv4_mapped or address.sixtofour
        found |= {str(inner)} if inner else set()
    return found


def number(value: object) -> float | None:
    """The number that a value is or spells; None when it is none."""
    if isinstance(value, bool):
        return None
    if isinstance(value, int | float):
        return _finite(value)
    if isinstance(value, str) and len(value) <= 400:
        plain = folded(value).replace("_", "").replace(",", "")
        with contextlib.suppress(ValueError):
            return _finite(float(plain))
        with contextlib.suppress(ValueError):
            return _finite(int(plain, 0))
    return None


def _finite(value: float) -> float | None:
    try:
        found = float(value)
    except OverflowError:
        return None
    return found if abs(found) != float("inf") and found == found else None  # noqa: PLR0124 - NaN
