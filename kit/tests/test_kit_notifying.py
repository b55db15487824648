"""The owner is told of what waits, whatever a webhook or a command does, and of nothing secret."""

from __future__ import annotations

import http.server
import json
import os
import socket
import stat
import sys
import threading
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from hostwright_kit.approvals import Approvals, Request
from hostwright_kit.config import NotifyConfig
from hostwright_kit.ledger import Ledger
from hostwright_kit.notifying import Notifier, notify_problems

from .kit_harness import wait_for


@contextmanager
def asking(folder: Path, **config: Any) -> Generator[Approvals]:
    """Approvals that tell as configured."""
    ledger = Ledger(folder / "ledger.db")
    notifier = Notifier(NotifyConfig(**config), folder)
    approvals = Approvals(
        folder / "approvals.db", ledger, lifetime_seconds=600, on_request=notifier.tell
    )
    try:
        yield approvals
    finally:
        notifier.close()
        approvals.close()
        ledger.close()


def ask(approvals: Approvals, digest: str = "d", caller: str = "agent") -> str:
    wanted = Request(
        digest=digest,
        caller=caller,
        server="system",
        tool="shell_exec",
        arguments={"argv": ["s3cret-argument"]},
        reason="profile standard",
    )
    return approvals.request(wanted).id


class Hook(http.server.BaseHTTPRequestHandler):
    """A webhook that answers as its path says."""

    heard: list[dict[str, Any]]

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["content-length"]))
        self.heard.append(json.loads(body))
        self.send_response(int(self.path.strip("/")))
        self.send_header("location", "/200")
        self.end_headers()

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - inherited
        """Nothing on stderr."""


@pytest.fixture
def hook() -> Iterator[tuple[str, list[dict[str, Any]]]]:
    heard: list[dict[str, Any]] = []
    handler = type("Heard", (Hook,), {"heard": heard})
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        yield f"http://127.0.0.1:{server.server_address[1]}", heard
        server.shutdown()
        thread.join()


def test_a_webhook_hears_of_each_new_request_once(
    tmp_path: Path, hook: tuple[str, list[dict[str, Any]]]
) -> None:
    url, heard = hook
    with asking(tmp_path, webhook=f"{url}/200") as approvals:
        first = ask(approvals)
        assert ask(approvals) == first
        second = ask(approvals, "other", "e\x1b[2Jvil" + "x" * 500)
        wait_for(lambda: len(heard) == 2)
    assert [one["id"] for one in heard] == [first, second]
    assert heard[0]["approve"] == f"hostwright approve {first}"
    assert (heard[0]["server"], heard[0]["tool"]) == ("system", "shell_exec")
    assert "\x1b" not in heard[1]["caller"]
    assert len(heard[1]["caller"]) < 200
    assert "s3cret" not in json.dumps(heard)
    assert notify_problems(tmp_path) == []


@pytest.mark.parametrize(("status", "told"), [(500, "status 500"), (302, "status 302")])
def test_a_webhook_that_refuses_is_told_of_in_the_status(
    tmp_path: Path, hook: tuple[str, list[dict[str, Any]]], status: int, told: str
) -> None:
    url, heard = hook
    with asking(tmp_path, webhook=f"{url}/{status}") as approvals:
        ask(approvals)
        (problem,) = wait_for(lambda: notify_problems(tmp_path))
    assert told in problem
    assert len(heard) == 1, "a redirect is not followed"


def test_one_that_never_answers_holds_up_nobody(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = f"http://127.0.0.1:{silent.getsockname()[1]}/key-in-the-path"
        with asking(tmp_path, webhook=url, timeout_seconds=0.5) as approvals:
            for number in range(45):
                ask(approvals, f"d{number}")
            (problem,) = wait_for(lambda: notify_problems(tmp_path))
    assert "did not answer" in problem
    assert "key-in-the-path" not in problem


def test_a_command_gets_the_facts_and_none_of_the_environment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("API_TOKEN", "s3cret-variable")
    target = tmp_path / "told"
    script = (
        "import json, os, sys; told = json.load(sys.stdin); "
        f"open({str(target)!r} + '.new', 'w').write(json.dumps([told, dict(os.environ)])); "
        f"os.rename({str(target)!r} + '.new', {str(target)!r})"
    )
    with asking(tmp_path, command=(sys.executable, "-c", script)) as approvals:
        first = ask(approvals)
        wait_for(target.exists)
    told, environment = json.loads(target.read_text())
    assert told["id"] == first
    assert "API_TOKEN" not in environment
    assert "s3cret" not in target.read_text()


@pytest.mark.parametrize(
    ("argv", "told"),
    [
        (("/no/such/program",), "No such file"),
        (("/bin/sh", "-c", "exit 3"), "code 3"),
        (("/bin/sh", "-c", "sleep 60 & sleep 60"), "longer than"),
    ],
)
def test_a_command_that_fails_is_told_of_and_leaves_nothing(
    tmp_path: Path, argv: tuple[str, ...], told: str
) -> None:
    with asking(tmp_path, command=argv, timeout_seconds=0.5) as approvals:
        ask(approvals)
        (problem,) = wait_for(lambda: notify_problems(tmp_path))
    assert told in problem


def test_the_desktop_is_told_by_notify_send_in_words_that_are_no_markup(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    program, seen = tmp_path / "notify-send", tmp_path / "seen"
    program.write_text(f'#!/bin/sh\nprintf "%s\\n" "$@" > {seen}.new\nmv {seen}.new {seen}\n')
    program.chmod(stat.S_IRWXU)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    with asking(tmp_path, desktop=True) as approvals:
        first = ask(approvals, caller="<b>--urgency</b>")
        wait_for(seen.exists)
    text = seen.read_text()
    assert f"hostwright approve {first}" in text
    assert "&lt;b&gt;" in text
    assert "<b>" not in text
    assert "s3cret" not in text


def test_nothing_is_begun_where_nothing_is_configured(tmp_path: Path) -> None:
    before = set(threading.enumerate())
    notifier = Notifier(NotifyConfig(), tmp_path)
    with asking(tmp_path) as approvals:
        notifier.tell(approvals.get(ask(approvals)))
        begun = set(threading.enumerate()) - before
        assert "notify" not in {thread.name for thread in begun}


@pytest.mark.parametrize("bad", ["ftp://x", "http://", "nonsense", "file:///etc/passwd"])
def test_what_is_no_address_is_an_error_of_the_configuration(bad: str) -> None:
    with pytest.raises(ValidationError):
        NotifyConfig(webhook=bad)
