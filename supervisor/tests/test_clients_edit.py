"""Plans and applied changes on real files: each client's shape, and files as people have them."""

from __future__ import annotations

import fcntl
import json
import os
import stat
import tomllib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from pydantic import SecretStr, ValidationError

from hostwright.clients import CLIENTS, Entry, Plan, Scope, apply, files, plan
from hostwright.clients.jsontext import JsonText
from hostwright_kit.errors import HostError

TOKEN = "hw_0123456789abcdefghijklmnop"
STDIO = Entry(
    name="system",
    command="/opt/x/.venv/bin/hostwright",
    args=("connect", "system"),
    env={"HOSTWRIGHT_HOME": "/srv/hw"},
)
HTTP = Entry(name="system", url="http://127.0.0.1:18790/mcp/system", bearer_token=SecretStr(TOKEN))
BY_VARIABLE = Entry(name="system", url="http://127.0.0.1:18790/mcp", bearer_token_env="HW_TOKEN")

USER_FILES = {
    "claude-code": ".claude.json",
    "claude-desktop": ".config/Claude/claude_desktop_config.json",
    "opencode": ".config/opencode/opencode.json",
    "openclaw": ".openclaw/openclaw.json",
    "codex": ".codex/config.toml",
    "cursor": ".cursor/mcp.json",
    "vscode": ".config/Code/User/mcp.json",
}
JSON_CLIENTS = [name for name in USER_FILES if name != "codex"]
CONTAINERS = {
    "claude-code": ("mcpServers",),
    "claude-desktop": ("mcpServers",),
    "opencode": ("mcp",),
    "openclaw": ("mcp", "servers"),
    "codex": ("mcp_servers",),
    "cursor": ("mcpServers",),
    "vscode": ("servers",),
}


def make(
    tmp_path: Path,
    client: str,
    entries: Sequence[Entry] = (STDIO,),
    *,
    remove: bool = False,
    scope: Scope = "user",
    **more: Any,
) -> Plan:
    (tmp_path / "project").mkdir(exist_ok=True)
    return plan(
        client,
        entries,
        remove=remove,
        home=tmp_path,
        cwd=tmp_path / "project",
        scope=scope,
        platform=more.pop("platform", "linux"),
        **more,
    )


def install(tmp_path: Path, client: str, entries: Sequence[Entry] = (STDIO,), **more: Any) -> Plan:
    made = make(tmp_path, client, entries, **more)
    apply(made)
    return made


def actions(made: Plan) -> dict[str, str]:
    return {change.name: change.action for change in made.changes}


def values(path: Path) -> Any:
    text = path.read_text().removeprefix("\ufeff")
    return tomllib.loads(text) if path.suffix == ".toml" else JsonText(text).value


def servers(tmp_path: Path, client: str) -> dict[str, Any]:
    value = values(tmp_path / USER_FILES[client])
    for key in CONTAINERS[client]:
        value = value[key]
    return value


def backups(path: Path) -> list[Path]:
    return sorted(path.parent.glob(f"{path.name}.hostwright-backup-*"))


def leftovers(path: Path) -> list[str]:
    return [
        item.name
        for item in path.parent.iterdir()
        if item.name.startswith(".hostwright-") or f".{path.name}.hostwright-" in item.name
    ]


# -- each client's shape -----------------------------------------------------------------------

COMMAND = "/opt/x/.venv/bin/hostwright"
ENV = {"HOSTWRIGHT_HOME": "/srv/hw"}
URL = "http://127.0.0.1:18790/mcp/system"
HEADERS = {"Authorization": f"Bearer {TOKEN}"}
SHAPES: list[tuple[str, Entry, dict[str, Any]]] = [
    (
        "claude-code",
        STDIO,
        {"type": "stdio", "command": COMMAND, "args": ["connect", "system"], "env": ENV},
    ),
    ("claude-code", HTTP, {"type": "http", "url": URL, "headers": HEADERS}),
    (
        "claude-code",
        BY_VARIABLE,
        {
            "type": "http",
            "url": "http://127.0.0.1:18790/mcp",
            "headers": {"Authorization": "Bearer ${HW_TOKEN}"},
        },
    ),
    ("claude-desktop", STDIO, {"command": COMMAND, "args": ["connect", "system"], "env": ENV}),
    (
        "opencode",
        STDIO,
        {
            "type": "local",
            "command": [COMMAND, "connect", "system"],
            "environment": ENV,
            "enabled": True,
            "timeout": 120000,
        },
    ),
    (
        "opencode",
        HTTP,
        {
            "type": "remote",
            "url": URL,
            "headers": HEADERS,
            "oauth": False,
            "enabled": True,
            "timeout": 120000,
        },
    ),
    (
        "openclaw",
        STDIO,
        {
            "command": COMMAND,
            "args": ["connect", "system"],
            "env": ENV,
            "requestTimeoutMs": 120000,
        },
    ),
    (
        "openclaw",
        HTTP,
        {
            "url": URL,
            "transport": "streamable-http",
            "headers": HEADERS,
            "requestTimeoutMs": 120000,
        },
    ),
    ("codex", STDIO, {"command": COMMAND, "args": ["connect", "system"], "env": ENV}),
    ("codex", HTTP, {"url": URL, "http_headers": HEADERS}),
    (
        "codex",
        BY_VARIABLE,
        {"url": "http://127.0.0.1:18790/mcp", "bearer_token_env_var": "HW_TOKEN"},
    ),
    ("cursor", STDIO, {"command": COMMAND, "args": ["connect", "system"], "env": ENV}),
    ("cursor", HTTP, {"url": URL, "headers": HEADERS}),
    (
        "vscode",
        STDIO,
        {"type": "stdio", "command": COMMAND, "args": ["connect", "system"], "env": ENV},
    ),
    ("vscode", HTTP, {"type": "http", "url": URL, "headers": HEADERS}),
]


@pytest.mark.parametrize(("client", "entry", "shape"), SHAPES)
def test_each_client_gets_its_own_shape(
    tmp_path: Path, client: str, entry: Entry, shape: dict[str, Any]
) -> None:
    made = install(tmp_path, client, [entry])
    assert made.path == tmp_path / USER_FILES[client]
    assert servers(tmp_path, client) == {"system": shape}
    assert actions(made) == {"system": "added"}


def test_every_client_has_a_tested_shape() -> None:
    assert {client for client, _, _ in SHAPES} == set(CLIENTS) == set(USER_FILES)


def test_timeouts_and_folders_go_where_the_client_has_a_setting(tmp_path: Path) -> None:
    entry = STDIO.model_copy(update={"timeout_seconds": 90.0, "cwd": "/srv"})
    found = {name: install(tmp_path, name, [entry]) for name in CLIENTS}
    assert servers(tmp_path, "claude-code")["system"]["timeout"] == 90000
    assert servers(tmp_path, "opencode")["system"]["timeout"] == 90000
    assert servers(tmp_path, "openclaw")["system"]["requestTimeoutMs"] == 90000
    assert servers(tmp_path, "codex")["system"]["tool_timeout_sec"] == 90
    for name in ("opencode", "openclaw", "codex", "vscode"):
        assert servers(tmp_path, name)["system"]["cwd"] == "/srv"
    for name in ("claude-code", "claude-desktop", "cursor"):
        assert any("working folder" in warning for warning in found[name].warnings)


def test_a_new_opencode_file_names_its_schema(tmp_path: Path) -> None:
    made = install(tmp_path, "opencode")
    assert values(made.path)["$schema"] == "https://opencode.ai/config.json"


def test_opencode_2_keeps_its_own_layout(tmp_path: Path) -> None:
    path = tmp_path / USER_FILES["opencode"]
    path.parent.mkdir(parents=True)
    path.write_text('{"mcp": {"servers": {"x": {"type": "local", "command": ["y"]}}}}')
    install(tmp_path, "opencode")
    assert values(path)["mcp"] == {
        "servers": {
            "x": {"type": "local", "command": ["y"]},
            "system": {
                "type": "local",
                "command": [COMMAND, "connect", "system"],
                "environment": ENV,
                "timeout": {"request": 120000},
            },
        }
    }


def test_claude_desktop_has_no_http(tmp_path: Path) -> None:
    with pytest.raises(HostError, match="starts itself") as caught:
        make(tmp_path, "claude-desktop", [HTTP])
    assert caught.value.code == "unsupported"


@pytest.mark.parametrize(
    ("client", "name"),
    [
        ("claude-code", ".mcp.json"),
        ("opencode", "opencode.json"),
        ("codex", ".codex/config.toml"),
        ("cursor", ".cursor/mcp.json"),
        ("vscode", ".vscode/mcp.json"),
    ],
)
def test_project_files(tmp_path: Path, client: str, name: str) -> None:
    made = install(tmp_path, client, scope="project")
    assert made.path == tmp_path / "project" / name
    assert made.path.is_file()
    if client == "claude-code":
        assert any("enableAllProjectMcpServers" in warning for warning in made.warnings)


@pytest.mark.parametrize("client", ["claude-desktop", "openclaw"])
def test_clients_without_project_files_say_so(tmp_path: Path, client: str) -> None:
    with pytest.raises(HostError, match="per project"):
        make(tmp_path, client, scope="project")


def test_where_the_files_are_elsewhere(tmp_path: Path) -> None:
    environ = {
        "XDG_CONFIG_HOME": "/x/config",
        "CODEX_HOME": "/x/codex",
        "CLAUDE_CONFIG_DIR": "/x/claude",
        "OPENCLAW_STATE_DIR": "relative/is/ignored",
    }
    assert str(make(tmp_path, "vscode", environ=environ).path) == "/x/config/Code/User/mcp.json"
    assert str(make(tmp_path, "opencode", environ=environ).path) == (
        "/x/config/opencode/opencode.json"
    )
    assert str(make(tmp_path, "codex", environ=environ).path) == "/x/codex/config.toml"
    assert str(make(tmp_path, "claude-code", environ=environ).path) == "/x/claude/.claude.json"
    assert make(tmp_path, "openclaw", environ=environ).path == tmp_path / USER_FILES["openclaw"]
    mac = tmp_path / "Library" / "Application Support"
    assert make(tmp_path, "claude-desktop", platform="darwin").path == (
        mac / "Claude" / "claude_desktop_config.json"
    )
    assert make(tmp_path, "vscode", platform="darwin").path == mac / "Code" / "User" / "mcp.json"


def test_of_two_opencode_files_the_one_with_the_entry_is_edited(tmp_path: Path) -> None:
    folder = tmp_path / ".config" / "opencode"
    folder.mkdir(parents=True)
    (folder / "opencode.json").write_text("{}")
    install(tmp_path, "opencode")
    (folder / "opencode.jsonc").write_text("{ /* mine */ }")
    assert make(tmp_path, "opencode").path == folder / "opencode.json"
    other = STDIO.model_copy(update={"name": "other"})
    assert make(tmp_path, "opencode", [other]).path == folder / "opencode.jsonc"


# -- what a change does to a file --------------------------------------------------------------

FILES = {
    "json": '{\n  "theme": "dark",\n  "mcpServers": {\n    "x": {\n      "command": "y"\n'
    "    }\n  }\n}\n",
    "toml": 'model = "m" # which\n\n# mine\n[mcp_servers.x]\ncommand = "y"\n',
}
ORIGINALS: list[tuple[str, str]] = [
    ("claude-code", FILES["json"]),
    ("claude-code", ""),
    ("claude-code", "{}"),
    ("claude-code", '{"a":1}'),
    ("claude-code", "\ufeff" + FILES["json"]),
    ("claude-code", FILES["json"].replace("\n", "\r\n")),
    ("claude-code", FILES["json"].replace("  ", "\t")),
    ("claude-code", FILES["json"].rstrip()),
    ("cursor", '// c\n{ // d\n  "a": [1, /* e */ 2,], // f\n  "mcpServers": {},\n}\n// g'),
    ("openclaw", "{mcp: {servers: {x: {command: 'y'}}, /* z */}, gateway: {port: 0x10}}\n"),
    ("opencode", '{\n  // c\n  "mcp": null,\n  "theme": "x",\n}\n'),
    ("codex", FILES["toml"]),
    ("codex", FILES["toml"].replace("\n", "\r\n")),
    ("codex", "\ufeff" + FILES["toml"]),
    ("codex", FILES["toml"].rstrip()),
    ("codex", ""),
]


@pytest.mark.parametrize(("client", "original"), ORIGINALS)
def test_install_twice_and_remove(tmp_path: Path, client: str, original: str) -> None:
    path = tmp_path / USER_FILES[client]
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(original.encode())
    before = values(path) if original else {}

    first = make(tmp_path, client)
    assert path.read_bytes() == original.encode(), "a plan writes nothing"
    result = apply(first)
    assert result.changed and result.backup is not None
    assert result.backup.read_bytes() == original.encode()
    assert servers(tmp_path, client)["system"]
    now = values(path)
    for key in before.keys() - {CONTAINERS[client][0]}:
        assert now[key] == before[key]
    installed = path.read_bytes()
    assert installed.startswith(b"\xef\xbb\xbf") == original.startswith("\ufeff")
    if "\r\n" in original:
        assert installed.count(b"\r\n") == installed.count(b"\n")

    second = make(tmp_path, client)
    assert actions(second) == {"system": "unchanged"}
    assert not second.changed and second.diff == ""
    assert apply(second).backup is None
    assert path.read_bytes() == installed
    assert len(backups(path)) == 1

    gone = install(tmp_path, client, remove=True)
    assert actions(gone) == {"system": "removed"}
    final = values(path)
    final.pop("$schema", None)
    assert {key: v for key, v in final.items() if v} == {key: v for key, v in before.items() if v}
    for mark in ("// c", "// d", "/* e */", "// f", "// g", "/* z */", "# which", "# mine"):
        assert (mark in original) == (mark in path.read_text())
    assert actions(make(tmp_path, client, remove=True)) == {"system": "absent"}
    assert leftovers(path) == []


def test_what_the_owner_added_to_an_entry_of_ours_stays(tmp_path: Path) -> None:
    path = tmp_path / ".claude.json"
    path.write_text(
        json.dumps(
            {
                "mcpServers": {
                    "system": {
                        "type": "stdio",
                        "command": "/old/place/hostwright",
                        "args": ["connect", "system"],
                        "env": {"MINE": "1", "HOSTWRIGHT_HOME": "/old"},
                        "alwaysLoad": True,
                    }
                }
            }
        )
    )
    made = install(tmp_path, "claude-code")
    assert actions(made) == {"system": "changed"}
    entry = servers(tmp_path, "claude-code")["system"]
    assert entry["command"] == COMMAND
    assert entry["env"] == {"MINE": "1", "HOSTWRIGHT_HOME": "/srv/hw"}
    assert entry["alwaysLoad"] is True


@pytest.mark.parametrize("client", sorted(set(CLIENTS) - {"claude-desktop"}))
def test_from_stdio_to_http_and_back(tmp_path: Path, client: str) -> None:
    install(tmp_path, client)
    stdio = servers(tmp_path, client)
    made = install(tmp_path, client, [HTTP])
    assert actions(made) == {"system": "changed"}
    shape = next(shape for name, entry, shape in SHAPES if name == client and entry is HTTP)
    assert servers(tmp_path, client) == {"system": shape}
    install(tmp_path, client)
    assert servers(tmp_path, client) == stdio


@pytest.mark.parametrize("client", list(CLIENTS))
def test_an_entry_of_somebody_else_is_a_conflict(tmp_path: Path, client: str) -> None:
    path = tmp_path / USER_FILES[client]
    path.parent.mkdir(parents=True, exist_ok=True)
    foreign: dict[str, Any] = {"command": "/usr/bin/other", "args": ["connect", "system"]}
    if client == "opencode":
        foreign = {"type": "local", "command": ["/usr/bin/other", "connect"]}
    if client == "codex":
        path.write_text('[mcp_servers.system]\ncommand = "/usr/bin/other"\n')
    else:
        text: Any = {"system": foreign}
        for key in reversed(CONTAINERS[client]):
            text = {key: text}
        path.write_text(json.dumps(text))
    before = path.read_bytes()
    other = STDIO.model_copy(update={"name": "second"})
    made = make(tmp_path, client, [STDIO, other])
    assert actions(made) == {"system": "conflict", "second": "added"}
    assert made.conflicts[0].detail
    assert any("system" in warning for warning in made.warnings)
    gone = make(tmp_path, client, remove=True)
    assert actions(gone) == {"system": "conflict"}
    assert not gone.changed
    apply(gone)
    assert path.read_bytes() == before


@pytest.mark.parametrize(
    ("url", "ours"),
    [
        ("http://127.0.0.1:18790/mcp", True),
        ("http://localhost:18790/mcp/system", True),
        ("http://[::1]:18790/mcp", True),
        ("http://127.0.0.1:18791/mcp", False),
        ("http://127.0.0.1:18790/other", False),
        ("http://127.0.0.1:18790/mcpx", False),
        ("https://127.0.0.1:18790/mcp", False),
        ("http://example.com:18790/mcp", False),
        ("http://127.0.0.1:bad/mcp", False),
    ],
)
def test_an_http_entry_is_ours_by_its_address(tmp_path: Path, url: str, ours: bool) -> None:
    path = tmp_path / ".cursor" / "mcp.json"
    path.parent.mkdir()
    path.write_text(json.dumps({"mcpServers": {"system": {"url": url}}}))
    made = make(tmp_path, "cursor", remove=True)
    assert actions(made) == {"system": "removed" if ours else "conflict"}


def test_remove_without_names_takes_everything_of_ours(tmp_path: Path) -> None:
    other = HTTP.model_copy(update={"name": "other"})
    path = tmp_path / ".claude.json"
    path.write_text('{"mcpServers": {"theirs": {"command": "x"}}}')
    install(tmp_path, "claude-code", [STDIO, other])
    made = install(tmp_path, "claude-code", [], remove=True)
    assert actions(made) == {"system": "removed", "other": "removed"}
    assert made.kept == ("theirs",)
    assert servers(tmp_path, "claude-code") == {"theirs": {"command": "x"}}


def test_nothing_to_remove_makes_no_file(tmp_path: Path) -> None:
    for client in CLIENTS:
        made = install(tmp_path, client, remove=True)
        assert not made.changed
        assert not made.path.exists()


# -- files as people have them -----------------------------------------------------------------


@pytest.mark.parametrize(
    ("client", "content", "place"),
    [
        ("claude-code", b'{"a": 1\n "b": 2}', "line 2, column 2"),
        ("claude-code", b'{\n  "mcpServers": []\n}', "line 2, column 17"),
        ("claude-code", b"[]", "line 1, column 1"),
        ("vscode", b'{"servers": {"x": {}, "x": {}, "y": tru}}', "line 1, column 37"),
        ("cursor", b'{"mcpServers": {}, "mcpServers": {}}', "line 1, column 20"),
        ("openclaw", b"{a: 1,\n/* never closed", "line 2"),
        ("codex", b"a = 1\nb = = 2\n", "line 2"),
        ("codex", b"mcp_servers = 3\n", "mcp_servers"),
        ("cursor", b'{"a":\n "\xff"}', "line 2, column 3"),
        ("cursor", "{}".encode("utf-16"), "line 1, column 1"),
    ],
)
def test_a_file_that_cannot_be_read_is_left_alone(
    tmp_path: Path, client: str, content: bytes, place: str
) -> None:
    path = tmp_path / USER_FILES[client]
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    with pytest.raises(HostError) as caught:
        make(tmp_path, client)
    assert str(path) in caught.value.message and place in caught.value.message
    assert caught.value.fix and caught.value.code == "invalid_file"
    assert path.read_bytes() == content


def test_a_file_in_the_wrong_dialect_is_edited_with_a_warning(tmp_path: Path) -> None:
    path = tmp_path / ".claude.json"
    path.write_text('{"a": 1, // why\n}')
    made = install(tmp_path, "claude-code")
    assert any("comments or trailing commas" in warning for warning in made.warnings)
    assert "// why" in path.read_text()


def test_a_link_is_followed_and_kept(tmp_path: Path) -> None:
    dotfiles = tmp_path / "dotfiles"
    dotfiles.mkdir()
    real = dotfiles / "claude"
    real.write_text("{}")
    link = tmp_path / ".claude.json"
    link.symlink_to("dotfiles/claude")
    made = install(tmp_path, "claude-code")
    assert link.is_symlink() and made.path == link and made.real_path == real
    assert "system" in real.read_text()
    assert len(backups(real)) == 1 and backups(link) == []


def test_a_link_to_a_file_that_is_not_there_yet(tmp_path: Path) -> None:
    link = tmp_path / ".claude.json"
    link.symlink_to("dotfiles/claude")
    install(tmp_path, "claude-code")
    assert link.is_symlink()
    assert "system" in (tmp_path / "dotfiles" / "claude").read_text()


def test_a_link_in_a_circle(tmp_path: Path) -> None:
    (tmp_path / ".claude.json").symlink_to(".claude.json")
    with pytest.raises(HostError):
        make(tmp_path, "claude-code")


@pytest.mark.parametrize("kind", ["folder", "fifo"])
def test_something_that_is_no_file(tmp_path: Path, kind: str) -> None:
    path = tmp_path / ".claude.json"
    if kind == "folder":
        path.mkdir()
    else:
        os.mkfifo(path)
    with pytest.raises(HostError, match="regular file"):
        make(tmp_path, "claude-code")


def test_a_read_only_file_is_refused(tmp_path: Path) -> None:
    path = tmp_path / ".claude.json"
    path.write_text("{}")
    path.chmod(0o444)
    made = make(tmp_path, "claude-code")
    with pytest.raises(HostError, match="read-only") as caught:
        apply(made)
    assert caught.value.code == "denied" and "chmod" in caught.value.fix
    assert path.read_text() == "{}"
    assert backups(path) == [] and leftovers(path) == []


@pytest.mark.parametrize("mode", [0o600, 0o640, 0o644])
def test_the_mode_stays(tmp_path: Path, mode: int) -> None:
    path = tmp_path / ".claude.json"
    path.write_text("{}")
    path.chmod(mode)
    install(tmp_path, "claude-code")
    assert stat.S_IMODE(path.stat().st_mode) == mode
    assert stat.S_IMODE(backups(path)[0].stat().st_mode) == 0o600


def test_new_files_and_folders_of_the_user_are_private(tmp_path: Path) -> None:
    made = install(tmp_path, "codex")
    assert stat.S_IMODE(made.path.stat().st_mode) == 0o600
    assert stat.S_IMODE(made.path.parent.stat().st_mode) == 0o700
    shared = install(tmp_path, "vscode", scope="project")
    assert stat.S_IMODE(shared.path.stat().st_mode) == 0o644


def test_at_most_five_backups_are_kept_and_they_are_the_last(tmp_path: Path) -> None:
    path = tmp_path / ".claude.json"
    path.write_text('{"n": 0}')
    for number in range(8):
        path.write_text(json.dumps({"n": number}))
        install(tmp_path, "claude-code")
    assert [json.loads(item.read_text())["n"] for item in backups(path)] == [3, 4, 5, 6, 7]


def test_a_file_that_changed_since_the_plan_is_left_alone(tmp_path: Path) -> None:
    path = tmp_path / ".claude.json"
    path.write_text("{}")
    made = make(tmp_path, "claude-code")
    path.write_text('{"new": true}')
    with pytest.raises(HostError, match="changed since") as caught:
        apply(made)
    assert caught.value.code == "conflict"
    assert path.read_text() == '{"new": true}'
    assert backups(path) == [] and leftovers(path) == []


def test_a_file_made_or_removed_since_the_plan(tmp_path: Path) -> None:
    path = tmp_path / ".claude.json"
    made = make(tmp_path, "claude-code")
    path.write_text("{}")
    with pytest.raises(HostError, match="changed since"):
        apply(made)
    assert path.read_text() == "{}" and leftovers(path) == []
    again = make(tmp_path, "claude-code")
    path.unlink()
    with pytest.raises(HostError, match="changed since"):
        apply(again)
    assert not path.exists()
    path.write_text("{}")
    last = make(tmp_path, "claude-code")
    path.rename(tmp_path / "moved")
    path.symlink_to("moved")
    with pytest.raises(HostError, match="changed since"):
        apply(last)


def test_a_second_run_at_the_same_time_gives_up(tmp_path: Path) -> None:
    path = tmp_path / ".claude.json"
    path.write_text("{}")
    made = make(tmp_path, "claude-code")
    with path.open() as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        with pytest.raises(HostError, match="changed since"):
            apply(made)
    assert apply(made).changed


def test_a_full_disk_or_a_closed_folder_leaves_the_file(tmp_path: Path) -> None:
    path = tmp_path / ".claude.json"
    path.write_text("{}")
    with pytest.raises(HostError) as caught:
        # A name that no file system takes stands for every error of the operating system.
        files.replace(tmp_path / ("x" * 300), None, "y", mode=0o600, private_folder=True)
    assert caught.value.code == "denied" and caught.value.fix
    assert sorted(item.name for item in tmp_path.iterdir()) == [".claude.json"]


# -- secrets -----------------------------------------------------------------------------------


@pytest.mark.parametrize("client", sorted(set(CLIENTS) - {"claude-desktop"}))
def test_a_token_makes_the_file_private_and_is_never_shown(tmp_path: Path, client: str) -> None:
    path = tmp_path / USER_FILES[client]
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("" if client == "codex" else "{}")
    path.chmod(0o644)
    made = make(tmp_path, client, [HTTP])
    assert "[redacted]" in made.diff
    for shown in (made.diff, repr(made), str(made), made.model_dump_json()):
        assert TOKEN not in shown
    apply(made)
    assert TOKEN in path.read_text()
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    # Loosened afterwards: the next run closes it again, without another backup.
    path.chmod(0o644)
    again = make(tmp_path, client, [HTTP])
    assert again.changed and not again.changes_text
    apply(again)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert len(backups(path)) == 1
    # Taking it out shows no more than putting it in; nor does a new token show the old one.
    assert TOKEN not in make(tmp_path, client, [HTTP], remove=True).diff
    renewed = HTTP.model_copy(update={"bearer_token": BY_VARIABLE.bearer_token})
    assert TOKEN not in make(tmp_path, client, [renewed, BY_VARIABLE][1:]).diff


def test_secrets_of_others_are_not_shown_either(tmp_path: Path) -> None:
    path = tmp_path / ".claude.json"
    key = 'sk-ant-"quoted"-0123456789'
    path.write_text(
        json.dumps(
            {"mcpServers": {"x": {"command": "y", "env": {"API_KEY": key, "MODE": "fast"}}}},
            indent=2,
        )
    )
    made = make(tmp_path, "claude-code")
    assert "0123456789" not in made.diff
    assert "[redacted]" in made.diff and '"MODE": "fast"' in made.diff


def test_a_short_secret_does_not_black_out_words(tmp_path: Path) -> None:
    path = tmp_path / USER_FILES["openclaw"]
    path.parent.mkdir()
    path.write_text("{gateway: {auth: 'oauth', password: 'hunter2'},\n oauth: 'hunter'}\n")
    diff = make(tmp_path, "openclaw").diff
    assert "hunter2" not in diff
    assert "oauth: 'hunter'" in diff


def test_the_owner_of_the_file_stays(tmp_path: Path) -> None:
    path = tmp_path / ".claude.json"
    path.write_text("{}")
    if os.geteuid() == 0:
        os.chown(path, 12345, 12346)
    before = path.stat()
    install(tmp_path, "claude-code")
    after = path.stat()
    assert (after.st_uid, after.st_gid) == (before.st_uid, before.st_gid)
    backup = backups(path)[0].stat()
    assert (backup.st_uid, backup.st_gid) == (before.st_uid, before.st_gid)


def test_a_token_in_a_project_file_is_warned_about(tmp_path: Path) -> None:
    made = make(tmp_path, "claude-code", [HTTP], scope="project")
    assert made.mode_after == 0o600
    assert any("version control" in warning for warning in made.warnings)
    by_variable = make(tmp_path, "claude-code", [BY_VARIABLE], scope="project")
    assert by_variable.mode_after == 0o644
    assert not any("version control" in warning for warning in by_variable.warnings)


def test_a_diff_of_a_large_file_is_short_and_right(tmp_path: Path) -> None:
    path = tmp_path / ".claude.json"
    history = {f"/p/{number}": {"history": ["x" * 50] * 20} for number in range(3000)}
    path.write_text(json.dumps({"projects": history, "mcpServers": {}, "z": 1}, indent=2))
    made = make(tmp_path, "claude-code")
    lines = made.diff.split("\n")
    assert len(lines) < 30
    number = path.read_text().split("\n").index('  "mcpServers": {},') + 1
    assert lines[2].startswith(f"@@ -{number - 3},6 +{number - 3},")
    path.write_text(json.dumps({"projects": history}))
    assert all(len(line) < 600 for line in make(tmp_path, "claude-code").diff.split("\n"))


# -- what is asked for -------------------------------------------------------------------------


def test_unknown_clients_and_empty_requests(tmp_path: Path) -> None:
    with pytest.raises(HostError, match="no client") as caught:
        make(tmp_path, "emacs")
    assert "claude-code" in caught.value.fix
    with pytest.raises(HostError, match="no server"):
        make(tmp_path, "cursor", [])
    with pytest.raises(HostError, match="twice"):
        make(tmp_path, "cursor", [STDIO, STDIO])


def test_openclaw_is_warned_about_variables_it_blocks(tmp_path: Path) -> None:
    entry = STDIO.model_copy(update={"env": {"PYTHONPATH": "/x"}})
    assert any("PYTHONPATH" in warning for warning in make(tmp_path, "openclaw", [entry]).warnings)


@pytest.mark.parametrize(
    "wrong",
    [
        {"name": "x"},
        {"name": "x", "command": "relative"},
        {"name": "x", "command": "/a", "url": "http://x"},
        {"name": "X y", "command": "/a"},
        {"name": "x", "url": "ftp://x"},
        {"name": "x", "url": "http://x", "bearer_token": "a\nb"},
        {"name": "x", "url": "http://x", "bearer_token": "a", "bearer_token_env": "B"},
        {"name": "x", "command": "/a", "bearer_token": "a"},
        {"name": "x", "url": "http://x", "headers": {"a b": "c"}},
        {"name": "x", "url": "http://x", "headers": {"a": "c\r\nd: e"}},
        {"name": "x", "command": "/a", "env": {"A=B": "c"}},
        {"name": "x", "command": "/a", "timeout_seconds": 0},
    ],
)
def test_an_entry_that_makes_no_sense_is_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        Entry.model_validate(wrong)
