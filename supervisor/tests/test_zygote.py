"""The zygote, with real forks: what a child finds, what nobody shares, what follows a death."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import textwrap
from collections.abc import AsyncIterator, Mapping
from pathlib import Path

import pytest
import pytest_asyncio

from hostwright.keeper import inherited, processes
from hostwright.keeper.child import Child
from hostwright.keeper.inherited import MARK
from hostwright.keeper.records import Records
from hostwright.manifest import Fork
from hostwright.zygote import early
from hostwright.zygote.birth import Marker
from hostwright.zygote.parent import Parent

from .zygote_world import World, call, gone, memory_holds, until, world

pytestmark = [
    pytest.mark.skipif(sys.platform != "linux", reason="forks only on Linux, by design"),
    pytest.mark.asyncio(loop_scope="module"),
]


def count(folder: str) -> int:
    return len(list(Path(folder).iterdir()))


def ended() -> set[int]:
    """Children of this process whose exit status nobody has taken."""
    rows = processes.table().values()
    return {row.id.pid for row in rows if row.parent == os.getpid() and row.zombie}


def zygotes() -> set[int]:
    """Those that are children of this process and run."""
    rows = processes.table().values()
    mine = {row.id.pid for row in rows if row.parent == os.getpid() and not row.zombie}
    found: set[int] = set()
    for pid in mine:
        with contextlib.suppress(OSError):  # it has ended
            if b"zygote" in Path(f"/proc/{pid}/cmdline").read_bytes():
                found.add(pid)
    return found


def environment(env: Mapping[str, str], child: Child) -> dict[str, str]:
    """What a server must see; Python itself adds the last one where no locale is set."""
    whole = {**env, inherited.MARK: child.family.mark, "LC_CTYPE": "C.UTF-8"}
    return {name: ascii(value) for name, value in whole.items()}


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def shared(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[World]:
    """One for the tests that leave it as it was."""
    async with world(tmp_path_factory.mktemp("zygote")) as found:
        found.nursery.wake()
        yield found


async def test_a_forked_server_finds_a_world_of_its_own(shared: World, tmp_path: Path) -> None:
    file = shared.server()
    read, write = os.pipe()
    os.write(write, b"key")
    os.close(write)
    number = os.dup2(read, 77)
    os.close(read)
    one_env = {**shared.environ, "TZ": "Asia/Tokyo", "A": "ü\udcff", "FASTMCP_LOG_LEVEL": "ERROR"}
    two_env = {**shared.environ, "TZ": "America/New_York", "B": "2"}
    one = await shared.fork(shared.launch(file, env=one_env, cwd=tmp_path, pass_fds=(number,)))
    os.close(number)
    two = await shared.fork(shared.launch(file, env=two_env))
    first, second = await call(one, "seen"), await call(two, "seen")

    assert first["environ"] == environment(one_env, one)
    assert second["environ"] == environment(two_env, two)
    assert (first["cwd"], second["cwd"]) == (str(tmp_path), str(shared.folder))
    assert (first["local"], second["local"]) == ("09", "19")
    assert first["random"] != second["random"]
    assert first["descriptors"] == [0, 1, 2, 77]
    assert second["descriptors"] == [0, 1, 2]
    assert (first["log_level"], second["log_level"]) == ("ERROR", "INFO")
    for found, child in ((first, one), (second, two)):
        assert found["argv"] == [str(file)]
        assert found["path"] == str(file.parent)
        assert found["main"] == "world"
        assert found["session"]
        assert found["interrupt"]
        assert found["parent"] == os.getpid()
        assert found["death"] == signal.SIGKILL
        assert found["ignored"] == 1 << (signal.SIGPIPE - 1) | 1 << (signal.SIGXFSZ - 1)
        assert found["blocked"] == 0
        mask = os.umask(0)
        os.umask(mask)
        assert found["umask"] == mask
        assert processes.mark_of(child.pid) == child.family.mark
        title = Path(f"/proc/{child.pid}/cmdline").read_bytes().rstrip(b"\0")
        assert title == b"hostwright: world"


async def test_executing_it_gives_the_same_world(shared: World) -> None:
    """What the test above checks is not peculiar to forks."""
    what = shared.launch(shared.server(), env={**shared.environ, "TZ": "Asia/Tokyo"})
    child = await Child.start(what, shared.log)
    shared.children.append(child)
    found = await call(child, "seen")
    assert found["environ"] == environment(what.env, child)
    assert found["local"] == "09"
    assert found["descriptors"] == [0, 1, 2]
    assert found["ignored"] == 1 << (signal.SIGPIPE - 1) | 1 << (signal.SIGXFSZ - 1)


@pytest.mark.parametrize(
    ("source", "text"),
    [
        ("raise SystemExit(3)", "exited with code 3"),
        ("raise ValueError('boom')", "exited with code 1"),
        ("import os; os.kill(os.getpid(), 11)", "killed by SIGSEGV"),
        ("import os; os._exit(7)", "exited with code 7"),
    ],
)
async def test_its_end_is_seen_and_told_truly(shared: World, source: str, text: str) -> None:
    child = await shared.fork(shared.launch(shared.server(source, "ends")))
    assert str(await asyncio.wait_for(child.wait(), 60)) == text
    result = await child.stop(timeout_seconds=1)
    assert result.how == "already_exited"
    assert gone(child.pid)
    if "boom" in source:
        assert "ValueError: boom" in (shared.folder / "server.log").read_text()


async def test_it_ends_like_a_program(shared: World, tmp_path: Path) -> None:
    note = tmp_path / "note"
    source = f"""
        import atexit, pathlib
        from fastmcp import FastMCP
        mcp = FastMCP("ends")
        atexit.register(pathlib.Path({str(note)!r}).write_text, "done")
        raise SystemExit(0)
    """
    child = await shared.fork(shared.launch(shared.server(source, "atexit_server")))
    assert str(await asyncio.wait_for(child.wait(), 60)) == "exited with code 0"
    assert note.read_text() == "done"
    child = await shared.fork(shared.launch(shared.server()))
    await call(child, "seen")
    assert (await child.stop(timeout_seconds=20)).how == "stdin_closed"
    child = await shared.fork(shared.launch(shared.server()))
    await call(child, "seen")
    os.kill(child.pid, signal.SIGTERM)
    assert str(await asyncio.wait_for(child.wait(), 60)) == "exited with code 0"


async def test_what_it_forks_without_executing_is_its_own(shared: World) -> None:
    child = await shared.fork(shared.launch(shared.server()))
    escaped = await call(child, "escape")
    bystander = await shared.fork(shared.launch(shared.server()))
    assert not gone(escaped)
    await child.stop(timeout_seconds=20)
    await until(lambda: gone(escaped))
    assert await call(bystander, "seen")


async def test_a_secret_of_one_is_with_nobody_else(shared: World) -> None:
    secret = "".join(reversed("terces-ylurt-a"))
    env = {**shared.environ, "API_TOKEN": secret * 3}
    holder = await shared.fork(shared.launch(shared.server(), env=env))
    assert (await call(holder, "seen"))["environ"]["API_TOKEN"] == ascii(secret * 3)
    sibling = await shared.fork(shared.launch(shared.server()))
    await call(sibling, "seen")
    pid = shared.nursery.pid
    assert pid
    needle = (secret * 3).encode()
    assert memory_holds(holder.pid, needle)  # the search does find it where it is
    for other in (pid, sibling.pid):
        assert not memory_holds(other, needle)
        assert needle not in Path(f"/proc/{other}/environ").read_bytes()


async def test_limits_hold_either_way(shared: World) -> None:
    source = """
        import os, resource
        from fastmcp import FastMCP
        mcp = FastMCP("limits")
        found = resource.getrlimit(resource.RLIMIT_NOFILE)
        @mcp.tool
        async def limits() -> list[int]:
            return list(found)
    """
    what = shared.launch(shared.server(source, "limits"), rlimits={"RLIMIT_NOFILE": (100, 200)})
    for by_fork in (shared.nursery.start, None):
        child = await Child.start(what, shared.log, by_fork=by_fork)
        shared.children.append(child)
        assert await call(child, "limits") == [100, 200]
        await child.stop(timeout_seconds=20)


async def test_what_a_fork_cannot_give_is_executed(shared: World) -> None:
    env = {**shared.environ, "PYTHONHASHSEED": "0"}
    child = await shared.start(shared.launch(shared.server(), env=env))
    assert (await call(child, "seen"))["environ"]["PYTHONHASHSEED"] == ascii("0")
    assert "PYTHONHASHSEED" in shared.nursery.plain["world"]
    assert "not by fork: its PYTHONHASHSEED is read" in (shared.folder / "server.log").read_text()


async def test_two_hundred_lives_leave_no_trace(shared: World) -> None:
    file = shared.server()

    async def live_and_die(times: int) -> None:
        for _ in range(times):
            child = await shared.fork(shared.launch(file))
            os.kill(child.pid, signal.SIGKILL)
            await child.stop(timeout_seconds=1)
            assert gone(child.pid)

    await live_and_die(1)  # opens what stays open
    pid, unreaped, before = shared.nursery.pid, ended(), count("/proc/self/fd")
    await live_and_die(199)
    assert shared.nursery.pid == pid
    assert count("/proc/self/fd") == before
    assert count(f"/proc/{pid}/fd") == 4  # three streams, one socket
    assert count(f"/proc/{pid}/task") == 1
    assert ended() == unreaped  # other tests', whose `stop` is still to come


async def test_the_death_of_the_zygote_is_nothing_to_its_children(shared: World) -> None:
    child = await shared.fork(shared.launch(shared.server()))
    pid = shared.nursery.pid
    assert pid
    os.kill(pid, signal.SIGKILL)
    await until(lambda: gone(pid))
    # At once: executed, as long as there is none.
    other = await shared.start(shared.launch(shared.server()))
    assert await call(other, "seen")
    assert await call(child, "seen")
    assert child.exit is None
    await until(lambda: shared.nursery.pid not in (None, pid))
    again = await shared.fork(shared.launch(shared.server()))
    assert await call(again, "seen")
    result = await child.stop(timeout_seconds=20)
    assert result.how == "stdin_closed"


async def test_it_rests_and_comes_back(shared: World) -> None:
    child = await shared.fork(shared.launch(shared.server()))
    pid = shared.nursery.pid
    assert pid
    await shared.nursery.rest()
    assert gone(pid)
    assert shared.nursery.pid is None
    assert await call(child, "seen")
    again = await shared.fork(shared.launch(shared.server()))
    assert await call(again, "seen")


async def test_one_that_was_begun_before_is_taken_over(tmp_path: Path) -> None:
    async with world(tmp_path) as found:
        others = zygotes()
        early.begin(found.environ)
        assert early.begun()
        await until(lambda: zygotes() > others)
        (useless,) = zygotes() - others
        # What began with other settings is of no use to anybody, and ends.
        early.take({})
        assert not early.begun()
        await until(lambda: useless in ended() or gone(useless))
        early.begin(found.environ)
        await until(lambda: zygotes() > others)
        (pid,) = zygotes() - others
        child = await found.fork(found.launch(found.server()))
        assert found.nursery.pid == pid
        assert await call(child, "seen")
        assert not early.begun()
        # It is on record like any other, and is not started twice.
        records = (tmp_path / "children.json").read_text()
        assert str(pid) in records
        await found.nursery.rest()
        assert gone(pid)


async def test_templates_have_the_heavy_modules_loaded(tmp_path: Path) -> None:
    library = tmp_path / "library"
    library.mkdir()
    (library / "heavy.py").write_text("import os; LOADED_BY = os.getpid()")
    (library / "threaded.py").write_text(
        "import threading, time\n"
        "threading.Thread(target=time.sleep, args=(600,), daemon=True).start()\n"
    )
    async with world(tmp_path, environ={"PYTHONPATH": str(library)}) as found:
        source = """
            import sys
            from fastmcp import FastMCP
            mcp = FastMCP("world")
            LOADED = "heavy" in sys.modules
            import heavy
            @mcp.tool
            async def heavy_of() -> list[int]:
                import os
                return [int(LOADED), heavy.LOADED_BY, os.getpid()]
        """
        target = f"{found.server(source)}:mcp"
        what = found.launch(
            found.folder / "world.py", fork=Fork(kind="file", target=target, preload=("heavy",))
        )
        one, two = (
            await found.fork(what),
            await found.fork(
                found.launch(
                    found.folder / "world.py",
                    fork=Fork(kind="file", target=target, preload=("heavy",)),
                )
            ),
        )
        first, second = await call(one, "heavy_of"), await call(two, "heavy_of")
        assert first[0] == second[0] == 1
        assert first[1] == second[1] not in (first[2], second[2], found.nursery.pid)
        template = first[1]
        plain = await found.fork(found.launch(found.folder / "world.py"))
        assert (await call(plain, "heavy_of"))[0] == 0

        # A module that starts a thread cannot be shared; the server is executed and works.
        odd = await found.start(
            found.launch(
                found.folder / "world.py",
                fork=Fork(kind="file", target=target, preload=("threaded",)),
            )
        )
        assert (await call(odd, "heavy_of"))[0] == 0
        assert "threaded leaves 2 threads" in found.nursery.plain["world"]

        # An upgrade under it is noticed before the next fork.
        (library / "heavy.py").write_text("import os; LOADED_BY = -1")
        fresh = await found.start(what.model_copy(update={"mark": one.family.mark[::-1]}))
        assert (await call(fresh, "heavy_of"))[1] == -1
        assert "has changed since it was loaded" in found.nursery.plain["world"]
        await found.nursery.rest()
        await until(lambda: gone(template))


async def test_an_entry_point_that_starts_a_thread_is_left_out(tmp_path: Path) -> None:
    library = tmp_path / "library"
    info = library / "threaded-1.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: threaded\nVersion: 1\n")
    (info / "entry_points.txt").write_text(
        "[hostwright.servers]\nthreaded = threaded_server:build\nleaving = leaving_server:build\n"
    )
    (library / "leaving_server.py").write_text("raise SystemExit('not me')")
    (library / "threaded_server.py").write_text(
        "import threading, time\n"
        "threading.Thread(target=time.sleep, args=(600,), daemon=True).start()\n"
        "def build(runtime): raise SystemExit(9)\n"
    )
    # Neither what is not installed nor what cannot be imported is of any harm to the others.
    names = ("gone", "leaving", "threaded")
    async with world(tmp_path, *names, environ={"PYTHONPATH": str(library)}) as found:
        ours = await found.fork(found.launch(found.server()))
        assert (await call(ours, "seen"))["threads"] == 1
        assert "importing the server threaded leaves 2 threads" in found.zygote_log.read_text()
        what = found.launch(found.server(), fork=Fork(kind="entry_point", target="threaded"))
        assert await found.nursery.start(what) == "importing it starts a thread"


DAEMON = """
import asyncio, os, sys
from pathlib import Path
from zygote_world import world, call

async def main():
    async with world(Path(sys.argv[1])) as found:
        file = found.server()
        children = [await found.fork(found.launch(file)) for _ in range(2)]
        for child in children:
            await call(child, "seen")
        print(found.nursery.pid, *(child.pid for child in children), flush=True)
        await asyncio.sleep(600)

asyncio.run(main())
"""


async def test_nothing_outlives_a_killed_daemon(tmp_path: Path) -> None:
    daemon = subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(DAEMON), str(tmp_path)],
        stdout=subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parent)},
    )
    assert daemon.stdout
    line = await asyncio.to_thread(daemon.stdout.readline)
    pids = [int(word) for word in line.split()]
    assert len(pids) == 3
    bystander = subprocess.Popen(["sleep", "600"])
    daemon.kill()
    daemon.wait()
    daemon.stdout.close()
    try:
        await until(lambda: not any(processes.runs(processes.identity(pid)) for pid in pids))
        survivors = await Records(tmp_path).recover()
        assert survivors.left == ()
        assert bystander.poll() is None
    finally:
        bystander.kill()
        bystander.wait()


async def test_a_second_fork_that_fails_is_told() -> None:
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    ours.settimeout(30)
    parent = Parent(theirs.detach(), Marker(MARK))
    failed, done = subprocess.Popen(["false"]), subprocess.Popen(["true"])
    parent._between = {failed.pid: 7, done.pid: 8}
    while parent._between:
        parent._reap()
        await asyncio.sleep(0.01)
    assert json.loads(ours.recv(1_000)) == {"id": 7, "refused": "the second fork failed"}
    # Reaped already, behind their backs.
    failed.returncode, done.returncode = 1, 0
    ours.setblocking(False)
    with pytest.raises(BlockingIOError):
        ours.recv(1_000)
    ours.close()
    parent._control.close()
