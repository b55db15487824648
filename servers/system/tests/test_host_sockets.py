"""Sockets, ports, connections and discovery against real listeners."""

from __future__ import annotations

import ipaddress
import os
import shutil
import socket
import sys
import sysconfig
from multiprocessing import get_context
from multiprocessing.connection import Connection
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hostwright_system.host.discover import Discovered, Discovery, system_discover
from hostwright_system.host.known import identify
from hostwright_system.host.ports import ConnectionRow, PortRow, connection_rows, reach
from hostwright_system.host.procfs import Proc
from hostwright_system.host.query import system_query
from hostwright_system.host.sockets import parse_inet, parse_unix

from .host_processes import AS_ROOT, python, running

linux_only = pytest.mark.skipif(sys.platform != "linux", reason="reads /proc/net")
pytestmark = linux_only

LISTEN = """
import socket, sys
s = socket.create_server(('127.0.0.1', int(sys.argv[1])))
print('port', s.getsockname()[1], flush=True)
input()
"""


def swapped(packed: bytes) -> str:
    words = [packed[i : i + 4] for i in range(0, len(packed), 4)]
    if sys.byteorder == "little":
        words = [w[::-1] for w in words]
    return b"".join(words).hex().upper()


@given(
    address=st.ip_addresses(),
    port=st.integers(0, 65535),
    state=st.integers(1, 12),
    uid=st.integers(0, 1 << 32),
    inode=st.integers(0, 1 << 40),
)
def test_an_inet_line_is_read_back(
    address: ipaddress.IPv4Address | ipaddress.IPv6Address,
    port: int,
    state: int,
    uid: int,
    inode: int,
) -> None:
    end = f"{swapped(address.packed)}:{port:04X}"
    line = f"   0: {end} {end} {state:02X} 0:0 00:0 0 {uid} 0 {inode} 1 0 100 0 0 10 0"
    (found,) = parse_inet(f"  sl  local_address …\n{line}\n".encode(), "tcp")
    assert found.local_address == str(address)
    assert (found.local_port, found.remote_port) == (port, port)
    assert (found.uid, found.inode, found.listening) == (uid, inode, state == 10)


@given(st.binary(max_size=400))
def test_no_table_content_breaks_the_readers(data: bytes) -> None:
    assert all(s.protocol == "tcp" for s in parse_inet(data, "tcp"))
    assert all(s.protocol == "unix" for s in parse_unix(data))


def test_a_unix_path_may_hold_spaces() -> None:
    data = b"Num RefCount ...\n0000: 00000002 00000000 00010000 0001 01 77 /run/a b  c\n"
    (found,) = parse_unix(data)
    assert (found.path, found.inode, found.listening) == ("/run/a b  c", 77, True)


@pytest.mark.parametrize(
    ("address", "expected"),
    [
        ("0.0.0.0", "all_addresses"),  # noqa: S104 - compared with, not bound
        ("::", "all_addresses"),
        ("127.8.0.1", "loopback"),
        ("::1", "loopback"),
        ("::ffff:127.0.0.1", "loopback"),
        ("10.0.0.1", "one_address"),
    ],
)
def test_reach(address: str, expected: str) -> None:
    assert reach(address) == expected


async def test_own_listeners_are_found_with_their_process() -> None:
    with (
        socket.create_server(("127.0.0.1", 0)) as tcp,
        socket.create_server(("::1", 0), family=socket.AF_INET6) as tcp6,
        socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as udp,
    ):
        udp.bind(("127.0.0.1", 0))
        for protocol, family, item in (
            ("tcp", "ipv4", tcp),
            ("tcp", "ipv6", tcp6),
            ("udp", "ipv4", udp),
        ):
            port = item.getsockname()[1]
            page = await system_query("ports", filters={"local_port": port, "protocol": protocol})
            (row,) = page.rows
            assert isinstance(row, PortRow)
            assert (row.pid, row.family, row.reach) == (os.getpid(), family, "loopback")
            assert row.local_address == item.getsockname()[0]
            assert row.owner_status == "known"
            assert row.inode == os.fstat(item.fileno()).st_ino


async def test_a_connection_is_found_from_both_ends() -> None:
    with (
        socket.create_server(("127.0.0.1", 0)) as server,
        socket.create_connection(server.getsockname()) as client,
        server.accept()[0],
    ):
        port = server.getsockname()[1]
        rows = [r for r in connection_rows()[0] if port in (r.local_port, r.remote_port)]
        assert {(r.local_port, r.remote_port) for r in rows} == {
            (port, client.getsockname()[1]),
            (client.getsockname()[1], port),
        }
        assert {(r.pid, r.state) for r in rows} == {(os.getpid(), "established")}
        page = await system_query("connections", filters={"remote_port": port})
        assert [type(r) for r in page.rows] == [ConnectionRow]


def test_a_closed_connection_has_no_owner_and_no_user() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        client = socket.create_connection(server.getsockname())
        accepted, _ = server.accept()
        client.close()
        accepted.close()
        port = server.getsockname()[1]
        waiting = [
            r for r in connection_rows()[0] if r.state == "time_wait" and r.remote_port == port
        ]
        assert [(r.pid, r.user, r.owner_status) for r in waiting] == [(None, None, "none")]


def of_pid(pid: int, discovery: Discovery) -> Discovered:
    (row,) = [r for r in discovery.found if r.pid == pid]
    return row


def test_a_child_is_discovered_with_all_that_it_listens_on(tmp_path: Path) -> None:
    path = tmp_path / "a b.sock"
    code = (
        "import socket, os\n"
        "a = socket.create_server(('127.0.0.1', 0))\n"
        "b = socket.create_server(('::', 0), family=socket.AF_INET6)\n"
        "c = socket.socket(socket.AF_INET, socket.SOCK_DGRAM); c.bind(('0.0.0.0', 0))\n"
        f"d = socket.socket(socket.AF_UNIX); d.bind({str(path)!r}); d.listen()\n"
        "e = socket.socket(socket.AF_UNIX); e.bind('\\0host-test-%d' % os.getpid()); e.listen()"
    )
    with running(python(code)) as child:
        row = of_pid(child.pid, system_discover(filters={"pid": child.pid}))
        assert [(x.protocol, x.family, x.reach) for x in row.listeners if x.port] != []
        assert {(x.protocol, x.reach) for x in row.listeners} == {
            ("tcp", "loopback"),
            ("tcp", "all_addresses"),
            ("udp", "all_addresses"),
            ("unix", "local"),
        }
        paths = {x.path for x in row.listeners if x.protocol == "unix"}
        assert paths == {str(path), f"@host-test-{child.pid}"}
        assert (row.kind, row.program, row.owner_status) == ("python", None, "known")
        assert row.first_port == min(x.port for x in row.listeners if x.port)
        assert row.start_time_ticks is not None


def test_workers_are_one_program_under_the_oldest() -> None:
    code = (
        "import socket, os\n"
        "s = socket.create_server(('127.0.0.1', 0))\n"
        "worker = os.fork()\n"
        "if worker == 0:\n"
        "    os.read(0, 1); os._exit(0)\n"
    )
    with running(python(code)) as child:
        row = of_pid(child.pid, system_discover())
        assert row.pids[0] == child.pid
        assert len(row.pids) == 2
        assert row.listener_count == 1


def test_the_module_that_runs_decides_the_kind() -> None:
    arguments = [sys.executable, "-u", "-W", "ignore", "-m", "http.server", "0"]
    with running([*arguments, "--bind", "127.0.0.1"]) as child:
        row = of_pid(child.pid, system_discover())
        assert (row.kind, row.runtime, row.program) == (
            "python-http-server",
            "python",
            "http.server",
        )


def test_names_that_merely_look_like_a_server_prove_nothing(tmp_path: Path) -> None:
    script = tmp_path / "nginx-redis-postgres.py"
    script.write_text("open('/proc/self/comm', 'w').write('nginx')\n" + LISTEN)
    with running([sys.executable, str(script), "0"]) as child:
        row = of_pid(child.pid, system_discover())
        assert (row.name, row.kind, row.program) == ("nginx", "python", str(script))


def test_the_real_executable_decides_also_after_it_was_replaced(tmp_path: Path) -> None:
    env = {
        "PYTHONHOME": sys.base_prefix,
        "LD_LIBRARY_PATH": str(sysconfig.get_config_var("LIBDIR")),
    }
    for name, kind in (("redis-server", "redis"), ("my-redis-server", "unknown")):
        program = tmp_path / name
        shutil.copy(Path(sys.executable).resolve(), program)
        with running([str(program), "-c", LISTEN, "0"], env=env) as child:
            row = of_pid(child.pid, system_discover())
            assert (row.kind, row.executable) == (kind, str(program))
            assert not row.executable_replaced
            program.unlink()
            row = of_pid(child.pid, system_discover())
            assert (row.kind, row.executable) == (kind, str(program))
            assert row.executable_replaced
            assert (row.identification is None) == (kind == "redis")


def test_listeners_in_other_network_namespaces_are_found() -> None:
    with running(["unshare", *AS_ROOT, "--net", sys.executable, "-c", LISTEN, "4711"]) as child:
        row = of_pid(child.pid, system_discover())
        assert row.network_namespace == Proc().namespace(child.pid, "net")
        assert [x.port for x in row.listeners] == [4711]


def test_a_listener_in_its_own_pid_namespace_is_marked() -> None:
    code = "import os\nif os.fork(): os.wait()\nelse:\n" + "".join(
        f"    {line}\n" for line in LISTEN.strip().splitlines()
    )
    with running(["unshare", *AS_ROOT, "--pid", sys.executable, "-c", code, "0"]):
        namespaces = {r.pid_namespace for r in system_discover().found}
        assert namespaces - {None}


def test_a_table_of_pages_is_walked() -> None:
    with running(python("import socket\ns = socket.create_server(('127.0.0.1', 0))")) as child:
        seen: list[int | None] = []
        cursor: str | None = None
        while True:
            page = system_discover(limit=1, cursor=cursor)
            seen += [r.pid for r in page.found]
            cursor = page.next_cursor
            assert page.truncated == (cursor is not None)
            if cursor is None:
                break
        assert child.pid in seen


def _as_nobody(pipe: Connection) -> None:
    os.setgroups([])
    os.setresgid(65534, 65534, 65534)
    os.setresuid(65534, 65534, 65534)
    pipe.send(system_discover().model_dump_json())


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become somebody else")
def test_without_permission_it_says_so() -> None:
    with socket.create_server(("127.0.0.1", 0)) as mine:
        ours, theirs = get_context("fork").Pipe()
        child = get_context("fork").Process(target=_as_nobody, args=(theirs,))
        child.start()
        assert ours.poll(30)
        seen = Discovery.model_validate_json(ours.recv())
        child.join(10)
        # The child inherited the listener by fork; so look at one that it cannot hold.
        port = mine.getsockname()[1]
        holders = [r for r in seen.found if any(x.port == port for x in r.listeners)]
        assert [r.owner_status for r in holders] == ["known"]
        assert holders[0].pids == (child.pid,), "the parent's files are not to be read"
        assert "may not be read" in seen.notes[0]
        assert "as root" in seen.notes[0]


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become somebody else")
def test_a_listener_of_another_user_is_told_without_its_process() -> None:
    with running(python("import socket\ns = socket.create_server(('127.0.0.1', 0))")) as child:
        port = of_pid(child.pid, system_discover()).first_port
        ours, theirs = get_context("fork").Pipe()
        looker = get_context("fork").Process(target=_as_nobody, args=(theirs,))
        looker.start()
        assert ours.poll(30)
        seen = Discovery.model_validate_json(ours.recv())
        looker.join(10)
    (row,) = [r for r in seen.found if any(x.port == port for x in r.listeners)]
    assert (row.pid, row.kind, row.owner_status) == (None, "unknown", "no_permission")
    assert row.user == "root"
    assert row.identification is not None


@pytest.mark.parametrize(
    ("executable", "arguments", "kind", "program"),
    [
        ("/usr/sbin/nginx", ["nginx: master process"], "nginx", None),
        ("/usr/sbin/nginx (deleted)", ["x"], "nginx", None),
        ("/usr/lib/postgresql/16/bin/postgres", ["postgres: checkpointer"], "postgres", None),
        ("/usr/bin/not-nginx", ["nginx"], "unknown", None),
        ("/opt/nginx/bin/worker", ["nginx"], "unknown", None),
        (None, ["nginx"], "unknown", None),
        ("/usr/bin/python3.11", ["python3", "-m", "uvicorn", "a:b"], "uvicorn", "uvicorn"),
        ("/usr/bin/python3", ["python3", "-mhttp.server"], "python-http-server", "http.server"),
        ("/usr/bin/python3", ["p", "/v/bin/gunicorn", "-w", "2"], "gunicorn", "/v/bin/gunicorn"),
        ("/usr/bin/python3", ["p", "-X", "dev", "-u", "app.py"], "python", "app.py"),
        ("/usr/bin/python3", ["p", "-c", "import x", "gunicorn"], "python", None),
        ("/usr/bin/python3", ["p", "my_gunicorn.py"], "python", "my_gunicorn.py"),
        ("/usr/bin/python-config", ["p"], "unknown", None),
        ("/usr/bin/node", ["node", "--require", "a.js", "server.js"], "node", "server.js"),
        ("/usr/bin/node", ["node", "-e", "code", "x.js"], "node", None),
        ("/usr/bin/node", ["node", "/app/node_modules/.bin/next", "start"], "next", None),
        ("/usr/bin/java", ["java", "-Xmx1g", "-cp", "a:b", "kafka.Kafka", "c"], "kafka", None),
        ("/usr/bin/java", ["java", "-jar", "/opt/jenkins.war"], "jenkins", "/opt/jenkins.war"),
        ("/usr/bin/bun", ["bun", "run", "index.ts"], "bun", "index.ts"),
        ("/usr/bin/dash", ["sh", "-c", "nginx"], "shell", None),
    ],
)
def test_programs_are_known_by_their_file(
    executable: str | None, arguments: list[str], kind: str, program: str | None
) -> None:
    identity = identify(executable, arguments)
    assert identity.kind == kind
    if program is not None:
        assert identity.program == program


@given(st.none() | st.text(), st.lists(st.text()))
def test_no_command_line_breaks_the_identification(
    executable: str | None, arguments: list[str]
) -> None:
    assert identify(executable, arguments).kind
