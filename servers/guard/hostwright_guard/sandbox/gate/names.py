"""Which names a sandbox may reach, and which addresses nobody may.

Names: RFC 1123 host names, IDNA to ASCII; every spelling of an address that inet_aton(3) accepts is
refused, because resolvers accept it too. Addresses: globally reachable ones by the IANA registries
(RFC 6890), after unwrapping whatever carries an IPv4 address inside an IPv6 one. Pure.
"""

from __future__ import annotations

import ipaddress
import re
import socket
from typing import NamedTuple

from hostwright_kit.errors import HostError

_LABEL = re.compile(r"(?!-)[a-z0-9_-]{1,63}(?<!-)")
_NAT64 = (ipaddress.IPv6Network("64:ff9b::/96"), ipaddress.IPv6Network("64:ff9b:1::/48"))
# Addresses at which clouds tell a machine its credentials; some are "global" by registry.
METADATA = frozenset(
    ipaddress.ip_address(text)
    for text in (
        "169.254.169.254",
        "169.254.170.2",
        "100.100.100.200",
        "168.63.129.16",
        "192.0.0.192",
        "fd00:ec2::254",
        "fd20:ce::254",
    )
)

HTTPS = 443
HTTP = 80


class NotAName(ValueError):  # noqa: N818 - says what it is
    """The text is no host name that could be allowed."""


class Target(NamedTuple):
    """An entry of a grant: a name, or `*.` and the name that it ends in; and a port."""

    pattern: str
    port: int | None
    """None: 443 and 80."""

    def admits(self, host: str, port: int) -> bool:
        """Whether the entry lists this (canonical) name and port."""
        if port not in self.ports:
            return False
        if self.pattern.startswith("*."):
            return host.endswith(self.pattern[1:]) and len(host) > len(self.pattern) - 1
        return host == self.pattern

    def covers(self, other: Target) -> bool:
        """Whether everything that `other` admits is admitted here."""
        if not set(other.ports) <= set(self.ports):
            return False
        if self.pattern == other.pattern:
            return True
        return self.pattern.startswith("*.") and other.pattern.endswith(self.pattern[1:])

    @property
    def ports(self) -> tuple[int, ...]:
        return (HTTPS, HTTP) if self.port is None else (self.port,)

    def __str__(self) -> str:
        return self.pattern if self.port is None else f"{self.pattern}:{self.port}"


def parse_target(text: str) -> Target:
    """`name`, `*.name`, `name:port`; raises `HostError`."""
    name, colon, digits = text.rpartition(":")
    if not colon:
        name, digits = text, ""
    wild = name.startswith("*.")
    try:
        host = canonical_host(name[2:] if wild else name)
    except NotAName as error:
        raise HostError(
            f"{text[:100]!r} cannot be allowed: {error}.",
            fix="Give a host name, *.NAME for all names beneath it, or NAME:PORT.",
            code="bad_domain",
        ) from error
    if colon and not (digits.isascii() and digits.isdigit() and 0 < int(digits) < 65536):
        raise HostError(
            f"{text[:100]!r} has no port between 1 and 65535.",
            fix="Give NAME:PORT, or NAME for 443 and 80.",
            code="bad_domain",
        )
    return Target(f"*.{host}" if wild else host, int(digits) if colon else None)


def canonical_host(text: str) -> str:
    """The one spelling of a host name; raises `NotAName`."""
    if not text or len(text) > 253 or any(ord(c) < 33 or c in "/\\@#?%:[]*" for c in text):
        raise NotAName("it is not a host name")
    if not text.isascii():
        try:
            text = text.encode("idna").decode()
        except UnicodeError:
            raise NotAName("it is not an international host name") from None
    host = text.lower().removesuffix(".")
    try:
        socket.inet_aton(host)
    except OSError:
        pass
    else:
        raise NotAName("it is an address; only names can be allowed")
    labels = host.split(".")
    if len(labels) < 2:
        raise NotAName("it has no domain")
    if not all(_LABEL.fullmatch(label) for label in labels):
        raise NotAName("it is not a host name")
    # A last label of digits would make it an address to some resolvers (WHATWG URL, 3.5).
    if labels[-1].isdigit() or re.fullmatch(r"0x[0-9a-f]*", labels[-1]):
        raise NotAName("it ends in a number, so it may be read as an address")
    return host


def is_public(text: str) -> bool:
    """Whether an address is one that a sandbox may be connected to."""
    try:
        address = ipaddress.ip_address(text.partition("%")[0])
    except ValueError:
        return False
    return all(_reachable(one) for one in (address, *_carried(address)))


def _carried(
    address: ipaddress.IPv4Address | ipaddress.IPv6Address,
) -> list[ipaddress.IPv4Address]:
    """The IPv4 addresses that an IPv6 one leads to, or might."""
    if isinstance(address, ipaddress.IPv4Address):
        return []
    low = ipaddress.IPv4Address(int(address) & 0xFFFF_FFFF)
    found = [address.ipv4_mapped, address.sixtofour, *(address.teredo or ())]
    if any(address in network for network in _NAT64) or int(address) >> 32 == 0:
        found.append(low)
    # ISATAP (RFC 5214): an interface identifier of 0000:5efe or 0200:5efe.
    if (int(address) >> 32) & 0xFDFF_FFFF == 0x0000_5EFE:
        found.append(low)
    return [one for one in found if one is not None]


def _reachable(address: ipaddress.IPv4Address | ipaddress.IPv6Address) -> bool:
    if address in METADATA or address.is_multicast or address.is_reserved:
        return False
    if isinstance(address, ipaddress.IPv6Address) and address.is_site_local:
        return False
    return address.is_global
