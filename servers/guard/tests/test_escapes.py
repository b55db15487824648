"""The escape suite: every attempt in `escapes/`, in a real sandbox, and none may succeed.

Once as this user and, where that is root, once as one that is not. One sandbox start carries all
attempts of a run; the same attempts without a sandbox are the control that shows that they are
aimed at something. What an attempt might have done without noticing is looked for from outside:
files, devices, set-ID bits, connections, processes.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import pytest

DRIVER = Path(__file__).parent / "escape_driver.py"
SOMEBODY = 54_321
LEAST = 60
PERMISSION = ("PermissionError", "not allowed", "Operation not permitted", "Permission denied")

Report = dict[str, Any]


def run(uid: int) -> Report:
    # Not below pytest's own folder, which another user may not enter.
    with tempfile.TemporaryDirectory(prefix="escapes-", dir="/tmp") as folder:
        Path(folder).chmod(0o755)
        done = subprocess.run(
            [sys.executable, str(DRIVER), str(uid), folder],
            # In the environment of the driver and of its bait process, for whoever can find it.
            env={**os.environ, "ESCAPE_BAIT": "the-secret-of-the-world"},
            capture_output=True,
            text=True,
            check=False,
            timeout=150,
        )
    assert done.returncode == 0, done.stderr[-4_000:]
    return json.loads(done.stdout.splitlines()[-1])


@pytest.fixture(
    scope="module",
    params=[
        pytest.param(0, id="as-started"),
        pytest.param(
            SOMEBODY,
            id="not-root",
            marks=pytest.mark.skipif(os.geteuid() != 0, reason="already not root"),
        ),
    ],
)
def report(request: pytest.FixtureRequest) -> Report:
    return run(request.param)


def test_no_attempt_succeeds(report: Report) -> None:
    assert report["exit_code"] == 0, report["stderr"]
    assert len(report["attempts"]) >= LEAST
    names = [one["name"] for one in report["attempts"]]
    assert len(set(names)) == len(names)
    escaped = [
        one
        for one in report["attempts"]
        if one["result"] != "held"
        and not (one["name"] == "follow_a_redirect_to_metadata" and not report["redirect_served"])
    ]
    assert escaped == []


def test_nothing_was_done_unnoticed(report: Report) -> None:
    assert report["traces"] == []
    assert report["survivors"] == []


def test_a_dry_run_leaves_the_folder_as_it_is(report: Report) -> None:
    found = report["overlay"]
    assert found["exit_code"] == 0
    assert found["real"] == [["file", "before"], ["gone", "before"]]
    assert sorted(found["changes"]) == [
        ["changed", "file", "file"],
        ["created", "folder", "new"],
        ["deleted", "file", "gone"],
    ]


def test_outside_the_same_attempts_come_to_something(report: Report) -> None:
    controls = {one["name"]: one for one in report["controls"]}
    assert set(controls) == {one["name"] for one in report["attempts"]}
    idle = [
        one for one in controls.values() if one["control"] == "anyone" and one["result"] == "held"
    ]
    assert idle == []
    # Containers take some capabilities from root; what then refuses is the kernel, nothing else.
    broken = [
        one
        for one in controls.values()
        if one["control"] == "root"
        and one["result"] == "held"
        and not any(word in one["detail"] for word in PERMISSION)
    ]
    assert broken == []


def test_the_gate_carried_only_what_was_allowed(report: Report) -> None:
    for head in report["arrived"]:
        lines = head.split("\r\n")
        assert lines[0] in ("GET /first HTTP/1.1", "GET /redirect HTTP/1.1")
        assert lines[1] == "Host: allowed.example"
        assert "smuggled" not in head and "X-Injected" not in head
    if report["redirect_served"]:
        assert len(report["arrived"]) == 2
    allowed = [one for one in report["judged"] if one["verdict"] == "allowed"]
    refused = [one for one in report["judged"] if one["verdict"] == "refused"]
    assert {one["target"] for one in allowed} <= {"allowed.example:80"}
    assert all(one["reason"] for one in refused)
    # Every kind of attempt shows in the record, with where it wanted to go.
    for wanted in ("metadata.example:80", "private.example:80", "rebind.example:80"):
        assert any(one["target"].startswith(wanted) for one in refused)
    assert any("169.254.169.254" in one["target"] for one in refused)
