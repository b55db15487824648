"""Interfaces, routes, resolvers and proxies."""

from __future__ import annotations

import ipaddress
import socket
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hostwright_system.host.network import (
    NetworkInfo,
    network_info,
    parse_ipv4_routes,
    parse_ipv6_routes,
    proxies,
    read_resolvers,
    without_credentials,
)

from .host_processes import in_namespaces

linux_only = pytest.mark.skipif(sys.platform != "linux", reason="Linux's own interfaces")

MADE = """
import json, subprocess
from hostwright_system.host.network import network_info
for command in (
    'link add name hw0 type veth peer name hw1', 'link set hw1 up',
    'link set hw0 address 02:00:00:00:00:07 mtu 1400',
    'addr add 198.51.100.2/24 dev hw0', 'addr add 2001:db8::2/64 dev hw0 nodad',
    'link set hw0 up', 'link set lo up',
    'route add default via 198.51.100.1', 'route add 203.0.113.0/26 via 198.51.100.9 metric 7',
    '-6 route add default via 2001:db8::1', 'route add blackhole 192.0.2.0/24',
    'route add unreachable 192.0.2.64/26', 'route add prohibit 192.0.2.128/26',
    '-6 route add blackhole 2001:db8:bad::/48',
):
    subprocess.run(['ip', *command.split()], check=True)
print(network_info({}).model_dump_json())
"""


@linux_only
def test_a_network_that_was_made_is_told_as_made() -> None:
    info = NetworkInfo.model_validate(in_namespaces(MADE, "--net"))
    interfaces = {i.name: i for i in info.interfaces}
    made = interfaces["hw0"]
    assert (made.up, made.mtu_bytes, made.mac_address) == (True, 1400, "02:00:00:00:00:07")
    addresses = {(a.family, a.address, a.prefix_length) for a in made.addresses}
    assert {("ipv4", "198.51.100.2", 24), ("ipv6", "2001:db8::2", 64)} <= addresses
    assert made.sent_bytes is not None
    assert interfaces["lo"].mac_address is None
    assert {(r.destination, r.gateway, r.interface) for r in info.default_gateways} == {
        ("0.0.0.0/0", "198.51.100.1", "hw0"),
        ("::/0", "2001:db8::1", "hw0"),
    }
    routes = {(r.destination, r.gateway, r.metric) for r in info.routes}
    assert ("203.0.113.0/26", "198.51.100.9", 7) in routes
    assert ("198.51.100.0/24", None, 0) in routes
    assert not any(r.destination.startswith(("192.0.2.", "2001:db8:bad:")) for r in info.routes), (
        "a route that leads nowhere is none"
    )
    assert info.truncated == ()


def test_this_machine_is_told_with_its_loopback() -> None:
    info = network_info()
    assert info.hostname == socket.gethostname()
    assert any(a.address == "127.0.0.1" for i in info.interfaces for a in i.addresses)
    assert (info.fully_qualified_name is None) != (info.fully_qualified_name_reason is None)


@given(
    destination=st.ip_addresses(v=4),
    gateway=st.ip_addresses(v=4),
    prefix=st.integers(0, 32),
    metric=st.integers(0, 1 << 31),
)
def test_an_ipv4_route_is_read_back(
    destination: ipaddress.IPv4Address,
    gateway: ipaddress.IPv4Address,
    prefix: int,
    metric: int,
) -> None:
    mask = ipaddress.ip_network(f"0.0.0.0/{prefix}").netmask
    fields = [
        int.from_bytes(address.packed, sys.byteorder) for address in (destination, gateway, mask)
    ]
    line = f"eth0\t{fields[0]:08X}\t{fields[1]:08X}\t0003\t0\t0\t{metric}\t{fields[2]:08X}\t0\t0\t0"
    (route,) = parse_ipv4_routes(f"Iface\n{line}\n".encode())
    assert (route.destination, route.gateway) == (f"{destination}/{prefix}", str(gateway))
    assert route.metric == metric


@given(destination=st.ip_addresses(v=6), gateway=st.ip_addresses(v=6), prefix=st.integers(0, 128))
def test_an_ipv6_route_is_read_back(
    destination: ipaddress.IPv6Address, gateway: ipaddress.IPv6Address, prefix: int
) -> None:
    none = "0" * 32
    line = (
        f"{destination.packed.hex()} {prefix:02x} {none} 00 {gateway.packed.hex()} "
        "00000400 00000002 00000000 00000003     eth0"
    )
    (route,) = parse_ipv6_routes(line.encode())
    assert (route.destination, route.gateway) == (f"{destination}/{prefix}", str(gateway))
    assert (route.metric, route.interface) == (1024, "eth0")


@given(st.binary(max_size=300))
def test_no_table_breaks_the_readers(data: bytes) -> None:
    assert len(list(parse_ipv4_routes(data))) <= len(data.splitlines())
    assert len(list(parse_ipv6_routes(data))) <= len(data.splitlines())


def test_resolvers_and_what_is_behind_the_stub(tmp_path: Path) -> None:
    assert read_resolvers(tmp_path).source is None
    (tmp_path / "etc").mkdir()
    conf = tmp_path / "etc/resolv.conf"
    conf.write_text(
        "# made by hand\nnameserver 192.0.2.1 # first\n;nameserver 192.0.2.9\n"
        "nameserver 2001:db8::1\nsearch a.example\nsearch b.example c.example\noptions rotate\n"
    )
    found = read_resolvers(tmp_path)
    assert found.name_servers == ("192.0.2.1", "2001:db8::1")
    assert found.search_domains == ("b.example", "c.example")
    assert not found.systemd_resolved_stub
    conf.write_text("nameserver 127.0.0.53\n")
    (tmp_path / "run/systemd/resolve").mkdir(parents=True)
    (tmp_path / "run/systemd/resolve/resolv.conf").write_text("nameserver 192.0.2.7\n")
    found = read_resolvers(tmp_path)
    assert found.systemd_resolved_stub
    assert found.upstream_name_servers == ("192.0.2.7",)


@given(
    password=st.text(),
    scheme=st.sampled_from(["http://", "https://", "socks5h://", ""]),
)
def test_a_proxy_password_never_shows(password: str, scheme: str) -> None:
    secret = f"S3CR3T{password}S3CR3T"
    shown = without_credentials(f"{scheme}me:{secret}@proxy.example:3128/")
    assert "S3CR3T" not in shown


@pytest.mark.parametrize(
    ("address", "shown"),
    [
        ("http://me:pw@proxy.example:3128", "http://proxy.example:3128"),
        ("me:pw@proxy.example:3128", "proxy.example:3128"),
        ("http://proxy.example:3128/", "http://proxy.example:3128/"),
        ("http://[2001:db8::1]:8080?key=secret", "http://[2001:db8::1]:8080"),
        ("http://[bad", "[not a valid address]"),
    ],
)
def test_proxy_addresses(address: str, shown: str) -> None:
    assert without_credentials(address) == shown


def test_proxies_come_from_either_spelling() -> None:
    environment = {
        "http_proxy": "http://u:p@a.example:1",
        "HTTPS_PROXY": "http://b.example:2",
        "NO_PROXY": "localhost,.example",
        "ALL_PROXY": "",
        "PATH": "/bin",
    }
    assert proxies(environment) == {
        "http_proxy": "http://a.example:1",
        "HTTPS_PROXY": "http://b.example:2",
        "NO_PROXY": "localhost,.example",
    }
