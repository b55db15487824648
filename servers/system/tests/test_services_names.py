"""Unit names, suggestions and the guard list: pure rules."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hostwright_kit.errors import HostError
from hostwright_system.services.names import (
    NAME_MAX_CHARS,
    close_names,
    is_template,
    template_of,
    type_of,
    unit_name,
    unit_pattern,
)
from hostwright_system.services.protected import danger


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("nginx", "nginx.service"),
        (" nginx.service ", "nginx.service"),
        ("foo.bar", "foo.bar.service"),
        ("getty@tty1", "getty@tty1.service"),
        ("getty@", "getty@.service"),
        ("backup.timer", "backup.timer"),
        ("-.mount", "-.mount"),
        ("dev-disk-by\\x2dlabel-a.swap", "dev-disk-by\\x2dlabel-a.swap"),
        (".service", ".service.service"),
    ],
)
def test_a_name_is_completed(text: str, name: str) -> None:
    assert unit_name(text) == name


@pytest.mark.parametrize(
    "text",
    ["", "a b", "/etc/passwd", "@.service", "a\nb", "a;reboot", "x" * 256, "ä", "a*", "--now=1"],
)
def test_what_systemd_would_refuse_is_refused_before_it_is_sent(text: str) -> None:
    with pytest.raises(HostError) as caught:
        unit_name(text)
    assert caught.value.code == "bad_unit_name"
    assert caught.value.fix


@given(st.text(max_size=300))
def test_whatever_is_accepted_is_a_valid_unit_name(text: str) -> None:
    try:
        name = unit_name(text)
    except HostError as error:
        assert error.code == "bad_unit_name"
        return
    assert type_of(name) is not None
    assert len(name) <= NAME_MAX_CHARS
    assert name.isascii()
    assert not set(name) & set("/ \t\n\0*?[]'\"$;&|")
    assert unit_name(name) == name


def test_patterns_keep_their_globs_and_nothing_else() -> None:
    assert unit_pattern("nginx*") == "nginx*"
    assert unit_pattern("[ab]*.timer") == "[ab]*.timer"
    assert unit_pattern("nginx") == "nginx.service"
    with pytest.raises(HostError):
        unit_pattern("$(reboot)*")


def test_templates_and_their_instances() -> None:
    assert is_template("getty@.service")
    assert not is_template("getty@tty1.service")
    assert template_of("getty@tty1.service") == "getty@.service"
    assert template_of("nginx.service") is None


def test_close_names_are_of_the_same_type_and_likeliest_first() -> None:
    known = ["nginx.service", "nginx.socket", "postgresql@15-main.service", "cron.service"]
    assert close_names("ngnix.service", known) == ["nginx.service"]
    assert close_names("postgres.service", known) == ["postgresql@15-main.service"]
    assert close_names("zzz.service", known) == []


def test_the_guard_looks_at_aliases_and_lets_safe_actions_pass() -> None:
    assert danger(["ssh.service", "sshd.service"], "stop")
    assert danger(["whatever.service", "sshd.service"], "stop")
    assert danger(["ssh.service"], "restart") is None
    assert danger(["dbus.service"], "restart")
    assert danger(["reboot.target", "ctrl-alt-del.target"], "start")
    assert danger(["user@1000.service"], "stop")
    assert danger(["hostwright.service"], "restart")
    assert danger(["nginx.service"], "stop") is None
