"""Other programs' configurations become manifests; everything odd is told with its place."""

from __future__ import annotations

import json
import re
import tomllib
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hostwright.clients import Entry, Imported, apply, import_servers, plan
from hostwright.clients.secrets import looks_secret
from hostwright_kit.errors import HostError

SECRET = "ghp_0123456789abcdefABCDEF0123456789abcd"


def manifests(found: Imported) -> dict[str, dict[str, Any]]:
    return {server.name: tomllib.loads(server.manifest) for server in found.servers}


def notes(found: Imported) -> list[str]:
    return [f"{note.place}: {note.message}" for server in found.servers for note in server.warnings]


def test_claude_code_and_desktop() -> None:
    found = import_servers(
        json.dumps(
            {
                "mcpServers": {
                    "github": {
                        "type": "stdio",
                        "command": "npx",
                        "args": ["-y", "@scope/server"],
                        "env": {"GITHUB_TOKEN": SECRET, "MODE": "fast", "N": 5},
                        "cwd": "/abs",
                    },
                    "docs": {
                        "type": "http",
                        "url": "https://example.com/mcp",
                        "headers": {"Authorization": "Bearer ${DOCS_TOKEN:-none}"},
                    },
                }
            },
            indent=1,
        )
    )
    assert found.format == "claude" and not found.problems and not found.skipped
    assert manifests(found) == {
        "github": {
            "name": "github",
            "command": ["npx", "-y", "@scope/server"],
            "cwd": "/abs",
            "env": {"GITHUB_TOKEN": SECRET, "MODE": "fast", "N": "5"},
        },
        "docs": {
            "name": "docs",
            "url": "https://example.com/mcp",
            "headers": {"Authorization": "Bearer ${DOCS_TOKEN:-none}"},
        },
    }
    text = "\n".join(notes(found))
    assert "line 3, mcpServers.github.env.GITHUB_TOKEN: looks like a secret" in text
    assert "headers.Authorization: is read from the environment as ${DOCS_TOKEN:-none}" in text
    assert "MODE" not in text
    assert SECRET not in text and SECRET not in repr(found)


def test_a_manifest_reads_as_a_person_would_write_it() -> None:
    found = import_servers(
        '{"mcpServers": {"x": {"command": "a", "args": ["b"], "env": {"K": "v"}}}}'
    )
    written, hint = found.servers[0].manifest.split("\n\n# ", 1)
    assert written == 'name = "x"\ncommand = ["a", "b"]\n\n[env]\nK = "v"'
    # What follows is for the reader; with its marks taken away it is what a manifest may say.
    assert "[guard.tools]" in hint
    said = "\n".join(line.removeprefix("# ") for line in hint.splitlines() if "=" in line)
    assert tomllib.loads(said.replace("(docs", "# (docs"))["trust_annotations"] is True


@pytest.mark.parametrize("layout", ["1", "2"])
def test_opencode(layout: str) -> None:
    servers = """{
        // local
        "files": {"type": "local", "command": ["bunx", "files"], "environment": {"T": "{env:TT}"}},
        "far": {"type": "remote", "url": "https://x/mcp", "headers": {"A": "{file:~/.a}"}},
        "off": {"type": "local", "command": ["x"], "disabled": true},
    }"""
    if layout == "1":
        servers = servers.replace('"disabled": true', '"enabled": false')
    else:
        servers = '{"servers": ' + servers + "}"
    text = '{"mcp": ' + servers + "}"
    found = import_servers(text)
    assert found.format == "opencode"
    assert manifests(found) == {
        "files": {"name": "files", "command": ["bunx", "files"], "env": {"T": "${TT}"}},
        "far": {"name": "far", "url": "https://x/mcp", "headers": {"A": "{file:~/.a}"}},
    }
    assert [note.message for note in found.skipped] == ["is disabled"]
    assert found.skipped[0].place.startswith("line 5, mcp")
    text = "\n".join(notes(found))
    assert "environment.T: is read from the environment as ${TT}" in text
    assert "headers.A: takes in a file" in text


def test_openclaw() -> None:
    found = import_servers(
        "{mcp: {servers: {a: {command: 'x', args: ['y'], workingDirectory: '/w', env: {P: 1}},"
        "b: {url: 'http://h/mcp', transport: 'streamable-http', toolFilter: {include: []}},"
        "c: {url: 'http://h/sse'}}}}"
    )
    assert found.format == "openclaw"
    assert manifests(found) == {
        "a": {"name": "a", "command": ["x", "y"], "cwd": "/w", "env": {"P": "1"}},
        "b": {"name": "b", "url": "http://h/mcp"},
        "c": {"name": "c", "url": "http://h/sse"},
    }
    text = "\n".join(notes(found))
    assert "mcp.servers.b.toolFilter: is not carried over" in text
    assert "mcp.servers.c.url: is meant for the older SSE transport" in text
    assert "mcp.servers.b.url" not in text


def test_codex(tmp_path: Path) -> None:
    path = tmp_path / "config.toml"
    path.write_text(
        'model = "x"\n\n[mcp_servers.a]\ncommand = "x"\nargs = ["y"]\nenv_vars = ["HOME_X"]\n'
        "startup_timeout_sec = 3\n[mcp_servers.a.env]\nK = 'v'\n"
        "[mcp_servers.b]\nurl = 'https://h/mcp'\nbearer_token_env_var = 'TOK'\n"
        "[mcp_servers.b.env_http_headers]\nX-Key = 'XK'\n"
        "[mcp_servers.c]\ncommand = 'x'\nenabled = false\n"
    )
    found = import_servers(path)
    assert found.format == "codex"
    assert manifests(found) == {
        "a": {"name": "a", "command": ["x", "y"], "env": {"K": "v", "HOME_X": "${HOME_X}"}},
        "b": {
            "name": "b",
            "url": "https://h/mcp",
            "headers": {"X-Key": "${XK}", "Authorization": "Bearer ${TOK}"},
        },
    }
    assert found.servers[0].place == "line 3, mcp_servers.a"
    assert found.skipped[0].place == "line 15, mcp_servers.c"


def test_vscode() -> None:
    found = import_servers(
        """{
        "inputs": [{"id": "api-key", "type": "promptString", "password": true}],
        "servers": {
            "a": {"type": "stdio", "command": "x", "args": ["${workspaceFolder}/y"],
                  "env": {"KEY": "${input:api-key}", "V": "${env:VV}"}, "envFile": ".env"},
            "b": {"type": "sse", "url": "https://h/sse"},
        },
    }"""
    )
    assert found.format == "vscode"
    assert manifests(found)["a"] == {
        "name": "a",
        "command": ["x", "${workspaceFolder}/y"],
        "env": {"KEY": "${API_KEY}", "V": "${VV}"},
    }
    text = "\n".join(notes(found))
    assert "env.KEY: is asked for by VS Code; set the variable API_KEY" in text
    assert "command.1: has ${workspaceFolder}, which only the editor can fill in" in text
    assert "servers.a.envFile: is not carried over" in text
    assert "servers.b.url: is meant for the older SSE" in text


def test_servers_of_single_projects_and_collisions(tmp_path: Path) -> None:
    found = import_servers(
        json.dumps(
            {
                "mcpServers": {"My Server": {"command": "a"}, "my_server": {"command": "b"}},
                "projects": {
                    "/p": {"mcpServers": {"my-server": {"command": "./run"}}},
                    "/q": {"history": []},
                },
            }
        )
    )
    assert manifests(found) == {
        "my-server": {"name": "my-server", "command": ["a"]},
        "my-server-2": {"name": "my-server-2", "command": ["b"]},
        "my-server-3": {"name": "my-server-3", "command": ["./run"], "cwd": "/p"},
    }
    text = "\n".join(notes(found))
    assert "My Server: is called “my-server” here" in text
    assert "my_server: collides with “My Server”" in text
    assert "projects./p.mcpServers.my-server: collides with “My Server”" in text


def test_every_problem_in_one_pass() -> None:
    found = import_servers(
        """{"mcpServers": {
  "both": {"command": "x", "url": "http://y"},
  "none": {},
  "text": "npx",
  "args": {"command": "x", "args": "-y"},
  "deep": {"command": "x", "args": ["a", ["b"]]},
  "env": {"command": "x", "env": {"A": {"B": 1}}},
  "table": {"command": "x", "env": ["A=1"]},
  "empty": {"command": " "},
  "ftp": {"url": "ftp://x"},
  "null": {"command": "x", "env": {"A": "b\\u0000"}},
  "fine": {"command": "x", "env": {"A": null}}
}}"""
    )
    assert [(problem.place, problem.message) for problem in found.problems] == [
        ("line 2, mcpServers.both", "has both a command and a url"),
        ("line 3, mcpServers.none", "has neither a command nor a url"),
        ("line 4, mcpServers.text", "is not a table of settings"),
        ("line 5, mcpServers.args.args", "is not a list"),
        ("line 6, mcpServers.deep.command.2", "is not text"),
        ("line 7, mcpServers.env.env.A", "is not text"),
        ("line 8, mcpServers.table.env", "is not a table"),
        ("line 9, mcpServers.empty.command", "is empty"),
        ("line 10, mcpServers.ftp.url", "is not an http or https address"),
        ("line 11, mcpServers.null.env.A", "has a null character"),
    ]
    assert list(manifests(found)) == ["fine"]
    assert "env.A: is null and left out" in "\n".join(notes(found))


def test_relative_places(tmp_path: Path) -> None:
    path = tmp_path / ".mcp.json"
    path.write_text(
        json.dumps(
            {"mcpServers": {"a": {"command": "x", "cwd": "sub"}, "b": {"command": "bin/run"}}}
        )
    )
    found = manifests(import_servers(path))
    assert found["a"]["cwd"] == str(tmp_path / "sub")
    assert found["b"]["cwd"] == str(tmp_path)
    unplaced = import_servers(path.read_text())
    assert "cwd" not in manifests(unplaced)["a"]
    assert any("not known" in note for note in notes(unplaced))


@pytest.mark.parametrize("client", ["claude-code", "opencode", "openclaw", "codex", "vscode"])
def test_what_we_installed_is_not_imported(tmp_path: Path, client: str) -> None:
    entries = [
        Entry(name="a", command="/x/bin/hostwright", args=("connect", "a")),
        Entry(name="b", url="http://127.0.0.1:18790/mcp/b"),
    ]
    made = plan(client, entries, home=tmp_path, cwd=tmp_path, platform="linux")
    apply(made)
    found = import_servers(made.path)
    assert found.servers == () and found.problems == ()
    assert [note.message for note in found.skipped] == ["leads back to Hostwright"] * 2
    moved = [Entry(name="b", url="http://127.0.0.1:4000/mcp/b")]
    apply(plan("cursor", moved, home=tmp_path, cwd=tmp_path))
    path = tmp_path / ".cursor" / "mcp.json"
    assert import_servers(path, gateway="http://localhost:4000").servers == ()
    assert len(import_servers(path).servers) == 1


def test_a_named_format_is_taken_at_its_word() -> None:
    text = '{"mcpServers": {"a": {"command": "x"}}, "servers": {"b": {"command": "y"}}}'
    assert list(manifests(import_servers(text))) == ["a", "b"]
    assert list(manifests(import_servers(text, format="vscode"))) == ["b"]
    assert list(manifests(import_servers('{"a": {"command": "x"}}'))) == ["a"]
    # A server may be called like a setting.
    odd = import_servers('{"mcpServers": {"command": {"command": "x"}}}')
    assert list(manifests(odd)) == ["command"]


@pytest.mark.parametrize("text", ["", "{}", '{"theme": "x"}', "model = 'x'\n", '{"mcp": []}'])
def test_a_file_without_servers_says_so(text: str) -> None:
    with pytest.raises(HostError, match="no MCP servers") as caught:
        import_servers(text)
    assert caught.value.fix


@pytest.mark.parametrize(
    ("name", "text", "place"),
    [
        ("x.json", '{"mcpServers": {\n"a": }}', "line 2, column 6"),
        ("x.toml", "[mcp_servers.a]\nb = \n", "line 2"),
        ("x.json", '{"mcpServers": {"a": {}, "a": {}}}', "line 1, column 26"),
        ("x.json", "3", "line 1, column 1"),
    ],
)
def test_a_file_that_cannot_be_parsed(tmp_path: Path, name: str, text: str, place: str) -> None:
    path = tmp_path / name
    path.write_text(text)
    with pytest.raises(HostError) as caught:
        import_servers(path)
    assert str(path) in caught.value.message and place in caught.value.message
    with pytest.raises(HostError, match="does not exist"):
        import_servers(tmp_path / "missing.json")


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=6),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner),
    max_leaves=6,
)
server_keys = st.sampled_from(
    ["type", "command", "args", "env", "cwd", "url", "headers", "enabled", "env_vars", "x", ""]
)
odd_servers = st.dictionaries(
    st.text(max_size=8), st.dictionaries(server_keys, json_values) | json_values, max_size=4
)


@settings(max_examples=200, deadline=None)
@given(odd_servers, st.sampled_from(["mcpServers", "mcp", "servers", "mcp_servers"]))
def test_whatever_is_in_the_file_every_server_is_accounted_for(
    servers: dict[str, Any], container: str
) -> None:
    try:
        found = import_servers(json.dumps({container: servers}))
    except HostError as error:
        assert error.fix
        return
    names = [server.name for server in found.servers]
    if not (container == "mcp" and isinstance(servers.get("servers"), dict)):
        assert len(found.servers) + len(found.skipped) + len(found.problems) == len(servers)
    assert len(set(names)) == len(names)
    for server in found.servers:
        assert re.fullmatch(r"[a-z][a-z0-9-]{0,62}", server.name)
        manifest = tomllib.loads(server.manifest)
        assert manifest["name"] == server.name
        assert ("command" in manifest) != ("url" in manifest)


@pytest.mark.parametrize(
    ("name", "value", "secret"),
    [
        ("GITHUB_TOKEN", "abcd1234", True),
        ("MAX_TOKENS", "4096", False),
        ("API_KEY", "${API_KEY}", False),
        ("Authorization", "Bearer {env:X}", False),
        ("Authorization", "Bearer abcdef", True),
        ("X", SECRET, True),
        ("DB", "postgres://u:pw@h/db", True),
        ("URL", "https://h/mcp?api_key=abcdef123", True),
        ("URL", "https://h/mcp?page=2", False),
        ("PATH", "/usr/local/bin:/usr/bin", False),
        ("PACKAGE", "@modelcontextprotocol/server-filesystem", False),
        ("MODE", "fast", False),
        ("ID", "9f86d081884c7d659a2feaa0c55ad015", True),
        ("KEYBOARD", "us", False),
        ("EMPTY_TOKEN", "", False),
    ],
)
def test_what_looks_like_a_secret(name: str, value: str, secret: bool) -> None:
    assert looks_secret(name, value) is secret
