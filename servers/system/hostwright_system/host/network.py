"""How this machine is connected: interfaces, routes, resolvers, names, proxies.

Interfaces come from psutil; routes from `/proc/net/route` and `/proc/net/ipv6_route`; resolvers
from resolv.conf(5), with those behind systemd-resolved's stub named as well. The full name needs
the resolver and has a deadline. Passwords in proxy addresses are removed. Blocking, at most about
FQDN_TIMEOUT_SECONDS.
"""

from __future__ import annotations

import ipaddress
import os
import re
import socket
import sys
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, Literal
from urllib.parse import urlsplit

import psutil
from pydantic import BaseModel, Field

from hostwright_system.host.bounded import BoundedCalls, Silent
from hostwright_system.host.procfs import read_file, text

FQDN_TIMEOUT_SECONDS = 1.0
MAX_INTERFACES = 128
MAX_ADDRESSES = 32
MAX_ROUTES = 500
MAX_PROXY_LENGTH = 1000

# include/uapi/linux/route.h and ipv6_route.h
_RTF_UP = 0x0001
_RTF_GATEWAY = 0x0002
_RTF_REJECT = 0x0200
_RTF_LOCAL = 0x80000000

STUB_ADDRESSES = frozenset({"127.0.0.53", "127.0.0.54"})
_SCHEME = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*")
_PROXY_VARIABLES = ("http_proxy", "https_proxy", "ftp_proxy", "all_proxy", "no_proxy")


class Address(BaseModel, frozen=True):
    family: Literal["ipv4", "ipv6"]
    address: str
    prefix_length: int | None


class Interface(BaseModel, frozen=True):
    name: str
    up: bool
    mtu_bytes: int
    speed_mbit_per_second: int | None = Field(description="Null where the driver tells none.")
    duplex: Literal["full", "half"] | None
    mac_address: str | None
    addresses: tuple[Address, ...]
    received_bytes: int | None
    sent_bytes: int | None
    received_packets: int | None
    sent_packets: int | None
    receive_errors: int | None
    send_errors: int | None
    receive_drops: int | None
    send_drops: int | None


class Route(BaseModel, frozen=True):
    family: Literal["ipv4", "ipv6"]
    destination: str = Field(description="In CIDR form; 0.0.0.0/0 and ::/0 are the default.")
    gateway: str | None = Field(description="Null when directly connected.")
    interface: str
    metric: int


class Resolvers(BaseModel, frozen=True):
    name_servers: tuple[str, ...]
    search_domains: tuple[str, ...]
    systemd_resolved_stub: bool = Field(description="Whether these are systemd-resolved's own.")
    upstream_name_servers: tuple[str, ...] = Field(description="Behind the stub.")
    source: str | None


class NetworkInfo(BaseModel, frozen=True):
    hostname: str
    fully_qualified_name: str | None
    fully_qualified_name_reason: str | None = Field(description="Why there is none.")
    interfaces: tuple[Interface, ...]
    default_gateways: tuple[Route, ...]
    routes: tuple[Route, ...] = Field(
        description="The main table, without local and reject routes."
    )
    resolvers: Resolvers
    proxies: dict[str, str] = Field(description="From the environment, without credentials.")
    truncated: tuple[str, ...] = Field(description="Lists that were cut: interfaces, routes.")
    notes: tuple[str, ...]


_calls: BoundedCalls[str] = BoundedCalls()


def network_info(environment: Mapping[str, str] | None = None) -> NetworkInfo:
    """How this machine is connected. Blocking."""
    interfaces = list(_interfaces())
    routes, notes = _routes()
    name, reason = _full_name()
    cut = [("interfaces", len(interfaces), MAX_INTERFACES), ("routes", len(routes), MAX_ROUTES)]
    return NetworkInfo(
        hostname=socket.gethostname(),
        fully_qualified_name=name,
        fully_qualified_name_reason=reason,
        interfaces=tuple(interfaces[:MAX_INTERFACES]),
        default_gateways=tuple(r for r in routes if r.destination.endswith("/0"))[:MAX_ROUTES],
        routes=tuple(routes[:MAX_ROUTES]),
        resolvers=read_resolvers(),
        proxies=proxies(os.environ if environment is None else environment),
        truncated=tuple(what for what, size, most in cut if size > most),
        notes=tuple(notes),
    )


def _interfaces() -> Iterator[Interface]:
    addresses, stats = psutil.net_if_addrs(), psutil.net_if_stats()
    counters = psutil.net_io_counters(pernic=True, nowrap=False) or {}
    duplexes: dict[int, Literal["full", "half"]] = {
        psutil.NIC_DUPLEX_FULL: "full",
        psutil.NIC_DUPLEX_HALF: "half",
    }
    for name in sorted(stats.keys() | addresses.keys()):
        state, count = stats.get(name), counters.get(name)
        entries = addresses.get(name, [])
        mac = next((e.address for e in entries if e.family == psutil.AF_LINK), None)
        yield Interface(
            name=name,
            up=bool(state and state.isup),
            mtu_bytes=state.mtu if state else 0,
            speed_mbit_per_second=(state.speed or None) if state else None,
            duplex=duplexes.get(state.duplex) if state else None,
            mac_address=mac if mac and mac.strip("0:") else None,
            addresses=tuple(_addresses(entries))[:MAX_ADDRESSES],
            received_bytes=count.bytes_recv if count else None,
            sent_bytes=count.bytes_sent if count else None,
            received_packets=count.packets_recv if count else None,
            sent_packets=count.packets_sent if count else None,
            receive_errors=count.errin if count else None,
            send_errors=count.errout if count else None,
            receive_drops=count.dropin if count else None,
            send_drops=count.dropout if count else None,
        )


def _addresses(entries: Iterable[Any]) -> Iterator[Address]:
    for entry in entries:
        if entry.family == socket.AF_INET:
            yield Address(
                family="ipv4", address=entry.address, prefix_length=_prefix(entry.netmask)
            )
        elif entry.family == socket.AF_INET6:
            yield Address(
                family="ipv6",
                address=entry.address.partition("%")[0],
                prefix_length=_prefix(entry.netmask),
            )


def _prefix(netmask: str | None) -> int | None:
    if not netmask:
        return None
    try:
        return int(ipaddress.ip_address(netmask)).bit_count()
    except ValueError:
        return None


def _routes() -> tuple[list[Route], list[str]]:
    if not sys.platform.startswith("linux"):
        return [], ["Routes are read from /proc, which this system does not have."]
    routes: list[Route] = []
    for name, parse in (("route", parse_ipv4_routes), ("ipv6_route", parse_ipv6_routes)):
        try:
            routes += parse(read_file(f"/proc/net/{name}", limit=16 << 20))
        except FileNotFoundError:  # a kernel without that family
            continue
    return sorted(routes, key=lambda r: (r.family, r.metric, r.destination, r.interface)), []


def parse_ipv4_routes(data: bytes) -> Iterator[Route]:
    """/proc/net/route: addresses in hexadecimal, in the machine's byte order."""
    for line in data.splitlines()[1:]:
        fields = line.split()
        if len(fields) < 8:
            continue
        try:
            destination, gateway, mask = (_ipv4(fields[i]) for i in (1, 2, 7))
            flags, metric = int(fields[3], 16), int(fields[6])
        except ValueError:
            continue
        # A blackhole has no flag of its own, only no interface.
        if flags & _RTF_UP and not flags & _RTF_REJECT and fields[0] != b"*":
            yield Route(
                family="ipv4",
                destination=f"{destination}/{int(mask).bit_count()}",
                gateway=str(gateway) if flags & _RTF_GATEWAY else None,
                interface=text(fields[0]),
                metric=metric,
            )


def _ipv4(value: bytes) -> ipaddress.IPv4Address:
    number = int(value, 16)
    return ipaddress.IPv4Address(number.to_bytes(4, sys.byteorder) if number < 1 << 32 else b"")


def parse_ipv6_routes(data: bytes) -> Iterator[Route]:
    """/proc/net/ipv6_route: addresses in hexadecimal, in network order."""
    for line in data.splitlines():
        fields = line.split()
        if len(fields) < 10 or len(fields[0]) != 32 or len(fields[4]) != 32:
            continue
        try:
            destination = ipaddress.IPv6Address(int(fields[0], 16))
            gateway = ipaddress.IPv6Address(int(fields[4], 16))
            prefix, metric, flags = (int(fields[i], 16) for i in (1, 5, 8))
        except ValueError:
            continue
        if flags & _RTF_UP and not flags & (_RTF_REJECT | _RTF_LOCAL):
            yield Route(
                family="ipv6",
                destination=f"{destination}/{prefix}",
                gateway=str(gateway) if flags & _RTF_GATEWAY else None,
                interface=text(fields[9]),
                metric=metric,
            )


def read_resolvers(root: Path = Path("/")) -> Resolvers:
    """What resolv.conf says, and what stands behind systemd-resolved's stub."""
    servers, search = _resolv_conf(root / "etc/resolv.conf")
    stub = bool(servers) and set(servers) <= STUB_ADDRESSES
    upstream, _ = _resolv_conf(root / "run/systemd/resolve/resolv.conf") if stub else ([], [])
    present = (root / "etc/resolv.conf").exists()
    return Resolvers(
        name_servers=tuple(servers),
        search_domains=tuple(search),
        systemd_resolved_stub=stub,
        upstream_name_servers=tuple(upstream),
        source="/etc/resolv.conf" if present else None,
    )


def _resolv_conf(file: Path) -> tuple[list[str], list[str]]:
    try:
        content = text(read_file(os.fspath(file), limit=1 << 16))
    except OSError:
        return [], []
    servers: list[str] = []
    search: list[str] = []
    for line in content.splitlines():
        words = line.split("#", 1)[0].split(";", 1)[0].split()
        if words[:1] == ["nameserver"] and len(words) > 1:
            servers.append(words[1])
        elif words[:1] in (["search"], ["domain"]):
            search = words[1:]  # the last one counts
    return servers[:16], search[:32]


def _full_name() -> tuple[str | None, str | None]:
    answer = _calls.run({"fqdn": _canonical_name}, timeout_seconds=FQDN_TIMEOUT_SECONDS)["fqdn"]
    if isinstance(answer, Silent):
        return None, f"The resolver did not answer within {FQDN_TIMEOUT_SECONDS:.0f} s."
    if isinstance(answer, OSError):
        return None, f"The hostname does not resolve: {answer.strerror}."
    return (answer, None) if "." in answer else (None, "The hostname resolves to no longer name.")


def _canonical_name() -> str:
    found = socket.getaddrinfo(
        socket.gethostname(), None, flags=socket.AI_CANONNAME, type=socket.SOCK_STREAM
    )
    return next((name for *_, name, _address in found if name), "")


def proxies(environment: Mapping[str, str]) -> dict[str, str]:
    """The proxy variables that are set, in either case of writing, without user and password."""
    found: dict[str, str] = {}
    for name in _PROXY_VARIABLES:
        for spelling in (name, name.upper()):
            value = environment.get(spelling)
            if value:
                found[spelling] = (
                    value[:MAX_PROXY_LENGTH] if name == "no_proxy" else without_credentials(value)
                )
    return found


def without_credentials(address: str) -> str:
    """A proxy's address: scheme, host, port and path. Everything up to the last `@` goes, before it
    is parsed at all, as an unescaped `/`, `?` or `#` in a password would end the authority early.
    """
    scheme, separator, rest = address.strip().partition("://")
    if not _SCHEME.fullmatch(scheme) or not separator:
        scheme, separator, rest = "", "", address.strip()
    rest = re.split(r"[?#]", rest.rpartition("@")[2], maxsplit=1)[0][:MAX_PROXY_LENGTH]
    try:
        known = urlsplit(f"//{rest}").hostname
    except ValueError:  # brackets that are no IPv6 address
        known = None
    return f"{scheme}{separator}{rest}" if known else "[not a valid address]"
