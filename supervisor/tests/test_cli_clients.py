"""`install` and `import` through the front door; the editing itself has tests of its own."""

from __future__ import annotations

import json
import stat
import tomllib
from pathlib import Path
from typing import Any, get_args

import pytest

from hostwright.cli.clients import ClientName
from hostwright.clients import CLIENTS
from hostwright.installing import entry_environment, reachable
from hostwright_kit.runtime import TOKENS_FILE
from hostwright_kit.tokens import Tokens

from .cli_world import PROGRAM, World

PORT = "18997"


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path)


def test_the_help_lists_every_client_that_there_is() -> None:
    assert set(get_args(ClientName)) == set(CLIENTS)


@pytest.mark.parametrize("client", sorted(CLIENTS))
def test_a_client_is_configured_once_and_freed_again(world: World, client: str) -> None:
    done = world.json("install", client)
    file = Path(done["path"])
    assert file.is_relative_to(world.home)
    assert [(one["name"], one["action"]) for one in done["changes"]] == [("hostwright", "added")]
    text = file.read_text()
    assert str(PROGRAM) in text
    assert "connect" in text
    # OpenClaw and Codex pass no variables on.
    assert str(world.runtime) in text
    assert not world.json("install", client)["changed"]
    assert file.read_text() == text
    gone = world.json("install", client, "--remove")
    assert [one["action"] for one in gone["changes"]] == ["removed"]
    assert "hostwright" not in file.read_text().replace("hostwright-backup", "")
    assert Path(gone["backup"]).read_text() == text


def test_a_dry_run_writes_nothing(world: World) -> None:
    planned = world.json("install", "claude-code", "--dry-run")
    assert planned["dry_run"]
    assert planned["changed"]
    assert '+    "hostwright": {' in planned["diff"]
    assert not list(world.home.iterdir())


def test_single_servers_in_the_project_leave_the_rest_alone(world: World) -> None:
    file = world.work / ".mcp.json"
    file.write_text(
        '{\n  "mcpServers": {"mine": {"command": "x", "env": {"API_KEY": "s3cr3t"}}}\n}'
    )
    words = ("install", "claude-code", "--scope", "project")
    done = world.ok(*words, "--server", "system", "--server", "hostwright")
    assert "s3cr3t" not in done.text
    assert "Backup: " in done.out
    assert "pending in Claude Code" in done.out
    servers = json.loads(file.read_text())["mcpServers"]
    assert servers["mine"] == {"command": "x", "env": {"API_KEY": "s3cr3t"}}
    assert servers["hostwright-system"]["args"] == ["connect", "system"]
    one = world.json(*words, "--remove", "--server", "system")
    assert [change["name"] for change in one["changes"]] == ["hostwright-system"]
    assert json.loads(file.read_text())["mcpServers"].keys() == {"mine", "hostwright-hostwright"}
    unknown = world.run(*words, "--server", "nope", "--json")
    assert unknown.code == 1
    assert "system" in unknown.error["fix"]


def test_an_entry_of_somebody_elses_is_left_and_told(world: World) -> None:
    file = world.home / ".cursor" / "mcp.json"
    file.parent.mkdir()
    text = '{"mcpServers": {"hostwright": {"command": "something-else"}}}'
    file.write_text(text)
    for words in ((), ("--http",)):
        done = world.run("install", "cursor", *words, HOSTWRIGHT_GATEWAY__PORT=PORT)
        assert done.code == 1
        assert "another server has this name" in done.out
        assert file.read_text() == text
    assert not (world.state / TOKENS_FILE).exists()
    assert world.json("install", "cursor", "--remove")["changes"] == []
    assert file.read_text() == text


def test_http_makes_a_token_keeps_it_and_revokes_it_with_the_entry(world: World) -> None:
    def install(*words: str) -> dict[str, Any]:
        return world.json("install", "opencode", *words, HOSTWRIGHT_GATEWAY__PORT=PORT)

    assert install("--http", "--dry-run")["token_action"] == "made"
    assert not (world.state / TOKENS_FILE).exists()
    done = install("--http")
    assert (done["token"], done["token_action"]) == ("opencode", "made")
    file = Path(done["path"])
    entry = json.loads(file.read_text())["mcp"]["hostwright"]
    assert entry["url"] == f"http://127.0.0.1:{PORT}/mcp"
    secret = entry["headers"]["Authorization"].removeprefix("Bearer ")
    assert secret not in json.dumps(done)
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    tokens = Tokens(world.state / TOKENS_FILE)
    try:
        assert tokens.verify(secret) == "opencode"
        again = install("--http")
        assert (again["changed"], again["token_action"]) == (False, "kept")
        assert install("--http", "--replace-token")["token_action"] == "replaced"
        assert tokens.verify(secret) is None
        project = world.run(
            "install", "opencode", "--http", "--scope", "project", "--json",
            HOSTWRIGHT_GATEWAY__PORT=PORT,
        )  # fmt: skip
        assert project.code == 1
        assert "--replace-token" in project.error["fix"]
        assert not (world.work / "opencode.json").exists()
        # From HTTP to stdio: the token has no holder any more.
        assert install()["revoked_tokens"] == ["opencode"]
        assert tokens.list() == []
        install("--http", "--server", "system", "--token-name", "other")
        assert install("--remove")["revoked_tokens"] == ["other"]
    finally:
        tokens.close()


def test_what_cannot_be_done_makes_no_token(world: World) -> None:
    file = world.home / ".cursor" / "mcp.json"
    file.parent.mkdir()
    file.write_text("{ broken")
    for client, code in (("cursor", "invalid_file"), ("claude-desktop", "unsupported")):
        done = world.run("install", client, "--http", "--json", HOSTWRIGHT_GATEWAY__PORT=PORT)
        assert done.code == 1
        assert done.error["code"] == code
    file.write_text("{}")
    file.chmod(0o400)
    done = world.run("install", "cursor", "--http", "--json", HOSTWRIGHT_GATEWAY__PORT=PORT)
    assert done.error["code"] == "denied"
    assert file.read_text() == "{}"
    assert world.json("token") == []
    moving = world.run("install", "codex", "--http", "--json")
    assert moving.code == 3
    assert "any free port" in moving.error["message"]


@pytest.mark.parametrize(
    "words",
    [
        ("install", "netscape"),
        ("install", "codex", "--http", "--remove"),
        ("install", "codex", "--token-name", "x"),
        ("import",),
    ],
)
def test_wrong_usage_is_exit_code_2(world: World, words: tuple[str, ...]) -> None:
    done = world.run(*words, "--json")
    assert done.code == 2
    assert done.error["code"] == "usage"


def test_an_entry_finds_the_daemon_without_the_login_environment() -> None:
    login = {"HOME": "/home/ada", "XDG_RUNTIME_DIR": "/run/user/1000"}
    assert entry_environment(login, uid=1000) == {
        "HOSTWRIGHT_RUNTIME_DIR": "/run/user/1000/hostwright"
    }
    assert entry_environment(login, uid=0) == {}
    own = {"HOSTWRIGHT_STATE_DIR": "/srv/state", "HOSTWRIGHT_CONFIG": "/srv/config.toml"}
    assert entry_environment(own, uid=0) == own


@pytest.mark.parametrize(
    ("url", "found"),
    [
        ("http://127.0.0.1:1/mcp", "http://127.0.0.1:1/mcp"),
        ("http://0.0.0.0:1/mcp", "http://127.0.0.1:1/mcp"),
        ("http://[::]:1/mcp", "http://[::1]:1/mcp"),
        ("http://host.example:1/mcp", "http://host.example:1/mcp"),
    ],
)
def test_a_wildcard_is_no_address_to_connect_to(url: str, found: str) -> None:
    assert reachable(url) == found


FOREIGN = {
    "mcpServers": {
        "GitHub": {
            "command": "sh",
            "args": ["-c", "true"],
            "env": {"GITHUB_TOKEN": "ghp_abcdefghijklmnopqrstuvwxyz0123456789"},
        },
        "system": {"command": "sh"},
        "gone": {"command": "/no/such/program"},
        "off": {"command": "sh", "disabled": True},
        "us": {"command": "/x/hostwright", "args": ["connect"]},
        "bad": {"note": 1},
    }
}


def test_import_writes_manifests_that_load_and_never_over_one(world: World) -> None:
    source = world.work / "mcp.json"
    source.write_text(json.dumps(FOREIGN))
    folder = world.config / "manifests"
    planned = world.run("import", source, "--dry-run", "--json")
    assert planned.code == 1, "not everything can be imported"
    assert not folder.exists()
    done = world.run("import", source)
    assert done.code == 1
    assert "ghp_" not in done.text
    for words in ("looks like a secret", "/no/such/program", "is disabled", "back to Hostwright"):
        assert words in done.out, words
    assert "has neither a command nor a url" in done.out
    assert "hostwright down" in done.out
    assert sorted(path.name for path in folder.iterdir()) == ["github.toml", "gone.toml"]
    manifest = folder / "github.toml"
    assert stat.S_IMODE(manifest.stat().st_mode) == 0o600
    assert tomllib.loads(manifest.read_text())["command"] == ["sh", "-c", "true"]
    actions = {one["name"]: one["action"] for one in planned.document["servers"]}
    assert actions == {"github": "written", "system": "refused", "gone": "written"}

    manifest.write_text('name = "github"\ncommand = ["true"]\n')
    again = {one["name"]: one for one in world.run("import", source, "--json").document["servers"]}
    assert again["github"]["action"] == "exists"
    assert again["gone"]["action"] == "unchanged"
    assert '["true"]' in manifest.read_text()
    replaced = world.run("import", source, "--replace", "--json").document["servers"]
    assert replaced[0]["action"] == "replaced"
    assert '["true"]' in Path(replaced[0]["backup"]).read_text()
    # The backup beside it is not a manifest, and what was written is one.
    found = world.run("check", "--json").document["findings"]
    faults = {Path(one["path"]).name for one in found if one["state"] == "problem"}
    assert faults == {"gone.toml"}


def test_a_sound_file_is_imported_with_exit_code_0(world: World) -> None:
    source = world.work / "mcp.json"
    source.write_text('{"mcpServers": {"one": {"command": "sh"}}}')
    assert [one["action"] for one in world.json("import", source)["servers"]] == ["written"]
    for text, code in (("{", "invalid_file"), ('{"a": 1}', "invalid_file")):
        source.write_text(text)
        assert world.run("import", source, "--json").error["code"] == code
    assert world.run("import", "/no/file.json", "--json").error["code"] == "not_found"
