"""What is refused before anything runs, and what a command sees of the server's environment."""

from __future__ import annotations

import base64
import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hostwright_kit.errors import HostError
from hostwright_system.shell.environment import build_environment, looks_secret
from hostwright_system.shell.resolve import MAX_STDIN_BYTES, CommandSpec, resolve

ENV = {"PATH": "/usr/bin:/bin", "HOME": "/"}


def refusal(spec: CommandSpec) -> HostError:
    with pytest.raises(HostError) as caught:
        resolve(spec, ENV)
    assert caught.value.fix
    return caught.value


@pytest.mark.parametrize(
    ("spec", "code", "part"),
    [
        (CommandSpec(), "invalid_argument", "No command"),
        (CommandSpec(argv=()), "invalid_argument", "empty"),
        (CommandSpec(argv=("",)), "invalid_argument", "empty"),
        (CommandSpec(line="  "), "invalid_argument", "empty"),
        (CommandSpec(argv=("true",), line="true"), "invalid_argument", "Both"),
        (CommandSpec(argv=("echo", "a\0b")), "invalid_argument", "NUL"),
        (CommandSpec(line="echo a\0b"), "invalid_argument", "NUL"),
        (CommandSpec(argv=("echo", "x" * 200_000)), "too_large", "200000"),
        (CommandSpec(argv=("true",), cwd="relative"), "invalid_argument", "absolute"),
        (CommandSpec(argv=("true",), cwd="/no/such/folder"), "not_found", "/no/such/folder"),
        (CommandSpec(argv=("true",), cwd="/etc/passwd"), "invalid_argument", "not a folder"),
        (CommandSpec(argv=("true",), cwd="/a\0b"), "invalid_argument", "absolute"),
        (CommandSpec(argv=("true",), env={"A=B": "x"}), "invalid_argument", "A=B"),
        (CommandSpec(argv=("true",), env={"": "x"}), "invalid_argument", "name"),
        (CommandSpec(argv=("true",), env={"A": "x\0"}), "invalid_argument", "NUL"),
        (CommandSpec(argv=("true",), stdin_base64="%%%"), "invalid_argument", "base64"),
        (
            CommandSpec(argv=("true",), stdin_text="a", stdin_base64="YQ=="),
            "invalid_argument",
            "Both",
        ),
        (CommandSpec(argv=("/etc/passwd",)), "denied", "not executable"),
    ],
)
def test_bad_input_is_refused_with_its_remedy(spec: CommandSpec, code: str, part: str) -> None:
    error = refusal(spec)
    assert error.code == code
    assert part in error.message


def test_too_much_stdin_is_refused() -> None:
    data = base64.b64encode(bytes(MAX_STDIN_BYTES + 1)).decode()
    assert refusal(CommandSpec(argv=("cat",), stdin_base64=data)).code == "too_large"


def test_a_missing_program_names_the_path_and_what_was_perhaps_meant() -> None:
    error = refusal(CommandSpec(argv=("grpe",)))
    assert error.code == "not_found"
    assert "/usr/bin:/bin" in error.message
    assert "grep" in error.fix
    assert "`line`" in refusal(CommandSpec(argv=("ls -l",))).fix
    assert "builtin" in refusal(CommandSpec(argv=("cd", "/"))).fix


def test_programs_are_found_by_the_path_of_the_call_and_from_its_folder(tmp_path: Path) -> None:
    tool = tmp_path / "tool"
    tool.write_text("#!/bin/sh\n")
    tool.chmod(0o755)
    (tmp_path / "folder").mkdir()
    by_path = CommandSpec(argv=("tool",), env={"PATH": str(tmp_path)})
    assert resolve(by_path, ENV).path == str(tool)
    relative = CommandSpec(argv=("./tool",), cwd=str(tmp_path))
    assert resolve(relative, ENV).path == str(tool)
    assert refusal(CommandSpec(argv=("folder",), env={"PATH": str(tmp_path)})).code == "not_found"


def test_the_shell_is_named_and_home_is_expanded() -> None:
    command = resolve(CommandSpec(line="echo $0", cwd="~"), ENV)
    assert (command.path, command.argv) == ("/bin/sh", ("/bin/sh", "-c", "echo $0"))
    assert command.cwd == command.env["PWD"] == "/"
    in_bash = CommandSpec(line="true", shell="bash")  # noqa: S604 - that is what is tested
    assert resolve(in_bash, ENV).path.endswith("/bash")


SECRETS = [
    "GITHUB_TOKEN",
    "MY_SECRET",
    "DB_PASSWORD",
    "PGPASSWORD",
    "MYSQL_PASSWD",
    "API_KEY",
    "apikey",
    "GOOGLE_APPLICATION_CREDENTIALS",
    "AWS_ACCESS_KEY_ID",
    "AWS_PROFILE",
    "HOSTWRIGHT_STATE",
    "NPM_AUTH",
    "XDG_SESSION_TOKEN",
    "LC_SECRET",
    "SSH_PRIVATE_KEY",
    "SESSION_COOKIE",
]


@pytest.mark.parametrize("name", SECRETS)
def test_secrets_pass_only_when_the_call_gives_them(name: str) -> None:
    assert looks_secret(name)
    assert name not in build_environment({name: "hush"}, {})
    assert build_environment({name: "hush"}, {name: "given"})[name] == "given"


@given(
    base=st.dictionaries(
        st.from_regex(r"[A-Za-z_][A-Za-z0-9_]{0,12}", fullmatch=True), st.just("v"), max_size=20
    )
)
def test_nothing_that_is_not_known_to_be_harmless_passes(base: dict[str, str]) -> None:
    known = {"HOME", "USER", "LOGNAME", "SHELL", "PATH", "TERM"}
    for name in build_environment(base, {}):
        assert not looks_secret(name)
        assert (
            name in known
            or name.startswith(("LC_", "XDG_"))
            or name in build_environment({}, {name: "v"})
        )


def test_the_harmless_ones_pass_and_the_basics_are_filled_in() -> None:
    base = {"LANG": "C.UTF-8", "LC_ALL": "C", "TZ": "UTC", "XDG_RUNTIME_DIR": "/run/user/0"}
    built = build_environment({**base, "RANDOM_THING": "x"}, {"ADDED": "1"})
    assert base.items() <= built.items()
    assert built["ADDED"] == "1"
    assert "RANDOM_THING" not in built
    assert built["PATH"]
    assert built["HOME"]
    assert os.environ.get("HOME") is None or build_environment(os.environ, {})["HOME"]


def test_a_proxy_passes_without_a_login_only() -> None:
    plain = {"https_proxy": "http://proxy:3128", "HTTP_PROXY": "proxy:3128"}
    assert plain.items() <= build_environment(plain, {}).items()
    for address in ("http://me:hush@proxy:3128", "me:hush@proxy:3128", "http://[hush@"):
        assert "https_proxy" not in build_environment({"https_proxy": address}, {})
