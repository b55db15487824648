"""`hostwright export claude-plugin`: judged, installed and connected by Claude Code itself."""

from __future__ import annotations

import pytest

from .agents import ClaudeCode
from .conftest import Daemon
from .harness import Room, program

pytestmark = pytest.mark.clients

THIRD_PARTY = """
name = "issues"
command = ["npx", "-y", "issues@1.0.0"]
[env]
API_KEY = "hunter2"
LEVEL = "${ISSUES_LEVEL:-info}"
"""


def test_the_plugin_is_valid_installs_and_connects(room: Room, daemon: Daemon) -> None:
    claude = ClaudeCode(room, daemon.room.marks)
    folder = room.work / "plugin"
    argv = [program("hostwright"), "export", "claude-plugin", "--out", str(folder)]
    room.run(argv, claude.env).ok()
    # Strict, and with what the plugin directory refuses; only its wish for an icon is left.
    for path in (folder, folder / "hostwright"):
        claude.run("plugin", "validate", str(path), "--strict").ok()
    told = claude.run("plugin", "validate", str(folder / "hostwright"), "--profile", "directory")
    assert "refuses a submission" not in told.ok().stdout
    claude.run("plugin", "marketplace", "add", str(folder)).ok()
    claude.run("plugin", "install", "hostwright@hostwright-local").ok()
    assert claude.connected() == {"plugin:hostwright:hostwright": True}


def test_a_plugin_of_named_servers_asks_for_what_they_need(room: Room) -> None:
    manifests = room.folder / "config/manifests"
    manifests.mkdir(parents=True)
    (manifests / "issues.toml").write_text(THIRD_PARTY)
    folder = room.work / "plugin"
    argv = [program("hostwright"), "export", "claude-plugin", "issues", "system"]
    done = room.run([*argv, "--out", str(folder)]).ok()
    assert "to be set: ISSUES_API_KEY" in done.stderr
    written = (folder / "hostwright/.mcp.json").read_text()
    assert '"API_KEY": "${user_config.issues_api_key}"' in written
    assert "hunter2" not in written
    ClaudeCode(room).run("plugin", "validate", str(folder / "hostwright"), "--strict").ok()
