"""Configuration: which layer wins, and every error at once with its place and its remedy."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from hostwright_kit import config as config_module
from hostwright_kit.config import ConfigError, find_line, load_kit_config, read_settings
from hostwright_kit.paths import Paths

PROFILE = st.none() | st.sampled_from(["observe", "standard", "autonomous"])


@pytest.fixture
def paths(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Paths:
    monkeypatch.setattr(config_module, "SYSTEM_FILE", tmp_path / "etc" / "config.toml")
    (tmp_path / "etc").mkdir()
    (tmp_path / "user").mkdir()
    return Paths(config_dir=tmp_path / "user", state_dir=tmp_path, runtime_dir=tmp_path)


def _set(file: Path, profile: str | None) -> None:
    file.write_text(f'[policy]\nprofile = "{profile}"\n' if profile else "")


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=60)
@given(system=PROFILE, user=PROFILE, named=PROFILE, environment=PROFILE, argument=PROFILE)
def test_the_later_layer_wins(
    paths: Paths,
    tmp_path: Path,
    system: str | None,
    user: str | None,
    named: str | None,
    environment: str | None,
    argument: str | None,
) -> None:
    _set(config_module.SYSTEM_FILE, system)
    _set(paths.config_dir / "config.toml", user)
    _set(tmp_path / "named.toml", named)
    read = read_settings(
        paths,
        config_file=tmp_path / "named.toml",
        overrides={"policy": {"profile": argument}} if argument else None,
        env={"HOSTWRIGHT_POLICY__PROFILE": environment} if environment else {},
    )
    loaded = load_kit_config(read)
    read.raise_problems()
    expected = argument or environment or named or user or system or "standard"
    assert loaded.policy.profile == expected


def test_layers_merge_by_key_and_not_by_table(paths: Paths) -> None:
    (paths.config_dir / "config.toml").write_text("[approval]\nexpires_minutes = 5\n")
    read = read_settings(paths, env={"HOSTWRIGHT_APPROVAL__VIA_CLIENT": "false"})
    loaded = load_kit_config(read)
    assert (loaded.approval.expires_minutes, loaded.approval.via_client) == (5, False)


def test_the_folder_that_the_agent_works_in_is_no_layer(
    paths: Paths, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    work = tmp_path / "work"
    work.mkdir()
    for name in ("config.toml", "hostwright.toml", ".hostwright.toml", ".env"):
        (work / name).write_text('[policy]\nprofile = "autonomous"\n')
    monkeypatch.chdir(work)
    assert load_kit_config(read_settings(paths, env={})).policy.profile == "standard"


def test_every_error_is_reported_at_once_with_file_line_key_and_fix(
    paths: Paths, tmp_path: Path
) -> None:
    user = paths.config_dir / "config.toml"
    user.write_text(
        '[policy]\nprofile = "yolo"\n\n[[policy.rules]]\neffect = "deny"\n\n'
        '[[policy.rules]]\neffect = "deny"\ntol = "x"\n\n[approval]\nexpires_minutes = 0\n'
    )
    broken = tmp_path / "broken.toml"
    broken.write_text("[ledger]\nreads = yes\n")
    env = {"HOSTWRIGHT_LEDGER__READS": "perhaps", "HOSTWRIGHT_APPROVAL__VIA": "1"}
    read = read_settings(paths, config_file=broken, env=env)
    load_kit_config(read)
    with pytest.raises(ConfigError) as caught:
        read.raise_problems()
    found = {(p.source, p.line, p.key) for p in caught.value.problems}
    assert found == {
        (str(broken), 2, ""),
        (str(user), 2, "policy.profile"),
        (str(user), 9, "policy.rules.1.tol"),
        (str(user), 12, "approval.expires_minutes"),
        ("HOSTWRIGHT_LEDGER__READS", None, "ledger.reads"),
        ("HOSTWRIGHT_APPROVAL__VIA", None, "approval.via"),
    }
    for problem in caught.value.problems:
        assert problem.fix
        assert problem.message
        assert str(problem) in str(caught.value)


@pytest.mark.parametrize(
    ("content", "says"),
    [(b"\xff\xfe", "UTF-8"), (b"[policy", "TOML"), (None, "cannot be read")],
)
def test_a_file_that_cannot_be_read_is_a_problem_that_names_it(
    paths: Paths, tmp_path: Path, content: bytes | None, says: str
) -> None:
    named = tmp_path / "named.toml"
    if content is not None:
        named.write_bytes(content)
    read = read_settings(paths, env={"HOSTWRIGHT_CONFIG": str(named)})
    (problem,) = read.problems
    assert problem.source == str(named)
    assert says.lower() in problem.message.lower()


def test_one_file_that_is_two_layers_is_one_problem(
    paths: Paths, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = paths.config_dir / "config.toml"
    file.write_text("[policy")
    monkeypatch.setattr(config_module, "SYSTEM_FILE", file)
    assert len(read_settings(paths, config_file=file, env={}).problems) == 1


def test_a_table_that_nobody_knows_is_named(paths: Paths) -> None:
    (paths.config_dir / "config.toml").write_text('[polcy]\nprofile = "observe"\n')
    read = read_settings(paths, env={})
    read.check_unknown(["policy", "approval"])
    (problem,) = read.problems
    assert (problem.key, problem.line) == ("polcy", 1)
    assert "policy" in problem.fix


@pytest.mark.parametrize("value", ["3", '"text"', "[1]", "true"])
def test_a_value_where_a_table_belongs_is_a_problem(paths: Paths, value: str) -> None:
    (paths.config_dir / "config.toml").write_text(f"policy = {value}\n")
    read = read_settings(paths, env={})
    load_kit_config(read)
    assert [problem.key for problem in read.problems] == ["policy"]


def test_root_s_private_configuration_does_not_stop_other_users(tmp_path: Path) -> None:
    """A file under a folder that this user may not enter is not there for this user."""
    assert os.geteuid() == 0, "this test gives up root's rights in a child"
    private = tmp_path / "etc"
    private.mkdir(mode=0o700)
    (private / "config.toml").write_text("[policy")
    for folder in (tmp_path, *tmp_path.parents):
        folder.chmod(folder.stat().st_mode | 0o011)
    child = os.fork()
    if child == 0:
        # In the child only plain calls: the test runner's state is not ours to unwind.
        os.setgid(65534)
        os.setuid(65534)
        config_module.SYSTEM_FILE = private / "config.toml"
        here = Paths(config_dir=Path("/nowhere"), state_dir=tmp_path, runtime_dir=tmp_path)
        try:
            os._exit(0 if not read_settings(here, env={}).problems else 1)
        except BaseException:  # noqa: BLE001 - whatever it is, the parent must see it as a failure
            os._exit(2)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


@given(st.text(max_size=200), st.lists(st.text(max_size=5) | st.integers(0, 3), max_size=4))
def test_pointing_at_a_line_never_fails(text: str, place: list[Any]) -> None:
    line = find_line(text, place)
    assert line is None or 1 <= line <= len(text.splitlines())


@given(
    st.dictionaries(st.from_regex(r"HOSTWRIGHT_[A-Z_]{0,12}", fullmatch=True), st.text(max_size=8))
)
def test_no_environment_stops_the_reading(env: dict[str, str]) -> None:
    env.pop("HOSTWRIGHT_CONFIG", None)
    nowhere = Path("/nonexistent")
    read = read_settings(Paths(config_dir=nowhere, state_dir=nowhere, runtime_dir=nowhere), env=env)
    load_kit_config(read)
    assert all(problem.fix for problem in read.problems)


def test_a_nearly_right_table_of_the_guard_is_an_error_and_not_ignored(tmp_path: Path) -> None:
    file = tmp_path / "c.toml"
    file.write_text('[polcy]\nprofile = "observe"\n[polly]\nx = 1\n[wallet]\nchain = 1\n')
    paths = Paths(config_dir=tmp_path, state_dir=tmp_path, runtime_dir=tmp_path)
    settings = read_settings(paths, config_file=file, env={})
    load_kit_config(settings)
    named = [(problem.key, problem.line) for problem in settings.problems]
    assert ("polcy", 1) in named
    assert all(key != "wallet" for key, _ in named)
