"""Redaction: no planted secret survives, and nothing that a shell would run hides behind one."""

from __future__ import annotations

import json
import logging
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hostwright_kit.call import Call
from hostwright_kit.caller import Caller
from hostwright_kit.policy import Effect
from hostwright_kit.redact import (
    LONG_TEXT_CHARS,
    MASK,
    RedactingFormatter,
    hiding,
    is_secret_name,
    redact,
    redact_text,
    secret_values,
    without,
)

BASE64 = "MIIEvQIBADANBgkqhkiG9w0BAQEFAASCBKcwggSjAgEAAoIBAQC7VJTUt9Us8cKj"
KEY = f"-----BEGIN RSA PRIVATE KEY-----\n{BASE64}\n{BASE64}\nQ==\n-----END RSA PRIVATE KEY-----"
JWT = "eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxMjM0In0.SflKxwRJSMeKKF2QT4fwpMeJf36POk6yJV"

SHAPED = [
    (KEY, BASE64),
    (KEY.replace("\n", "\\n"), BASE64),
    (KEY[:140], BASE64),
    (KEY.replace("RSA ", "OPENSSH "), BASE64),
    ("Authorization: Bearer abcDEF123456789", "abcDEF123456789"),
    ("authorization: basic dXNlcjpwYXNz", "dXNlcjpwYXNz"),
    ("key sk-proj-abcdefghijklmnop1234", "abcdefghijklmnop1234"),
    ("ghp_abcdefghijklmnopqrstuvwxyz0123456789", "abcdefghijklmnopqrst"),
    ("AKIAIOSFODNN7EXAMPLE", "IOSFODNN7EXAMPLE"),
    ("hw_" + "a1B2" * 10, "a1B2a1B2"),
    (JWT, "SflKxwRJSMeKKF2QT4"),
    ("postgres://app:s3cr3t@db/x", "s3cr3t"),
    ("https://u:with@sign@host/", "with"),
    ("mysql --password hunter22 -h db", "hunter22"),
    ("mysql --password='hunter 22' -h db", "hunter 22"),
    ("tool --api-key=hunter22", "hunter22"),
    ("DB_PASSWORD=hunter22 ./run", "hunter22"),
    ("DB_PASS=hunter22 ./run", "hunter22"),
    ('{"client_secret": "hunter22"}', "hunter22"),
    ("password: hunter22", "hunter22"),
    ('TOKEN="hunter22', "hunter22"),
]


@pytest.mark.parametrize(("text", "secret"), SHAPED)
def test_a_secret_is_known_by_its_shape(text: str, secret: str) -> None:
    assert secret not in redact_text(text)
    assert secret not in redact_text(f"before {text}")
    assert MASK in redact_text(text)


@pytest.mark.parametrize(
    "name",
    [
        "password",
        "PASSWORD",
        "db_password",
        "apiKey",
        "api-key",
        "x-api-key",
        "access_token",
        "Authorization",
        "Cookie",
        "session_id",
        "pin",
        "user_pin",
        "private_key",
        "mnemonic",
    ],
)
@pytest.mark.parametrize("value", ["hunter22", 1234, ["hunter22"], {"x": "hunter22"}, True])
def test_a_value_under_a_secret_name_is_masked_whatever_it_is(name: str, value: Any) -> None:
    assert is_secret_name(name)
    assert redact({"a": [{name: value}]}) == {"a": [{name: MASK}]}


@pytest.mark.parametrize(
    "name", ["path", "passive", "author", "keyboard", "pinned", "spin", "user"]
)
def test_ordinary_names_are_left_alone(name: str) -> None:
    assert redact({name: "value"}) == {name: "value"}


def test_an_argument_list_masks_the_value_after_the_option() -> None:
    shown = redact({"argv": ["mysql", "--password", "hunter22", "--token", "-v", "file"]})
    assert shown == {"argv": ["mysql", "--password", MASK, "--token", "-v", "file"]}


def test_a_key_that_is_a_secret_itself_is_masked() -> None:
    assert "abcdefghijklmnop1234" not in json.dumps(redact({"sk-abcdefghijklmnop1234": 1}))


@pytest.mark.parametrize(
    "line",
    [
        "echo '-----BEGIN PRIVATE KEY-----'; rm -rf /",
        "cat <<E\n-----BEGIN PRIVATE KEY-----\nrm -rf /\nE",
        'curl --token="$(rm -rf /)"',
        "curl --token=`rm -rf /`",
        "curl --token=$(rm -rf /)",
        "diff --secret <(rm -rf /)",
        "curl http://x:$(rm${IFS}-rf${IFS}/)@h",
        "TOKEN=x; rm -rf /",
        "TOKEN=x&&rm -rf /",
        'PASSWORD="a" rm -rf /',
        'echo "password=" ; rm -rf / ; echo "x"',
        'echo \'"\' "password=" ; rm -rf / ; echo "x"',
        "true # token='\nrm -rf /\n# '",
        "true --token\nrm -rf /",
        "TOKEN=\nrm -rf /",
        "TOKEN= rm -rf /",
        "echo bearer\nrm_and_more -rf /",
        "curl http://x:;rm${IFS}-rf${IFS}~;#@h",
        "run --token=x>rm-rf",
        "TOKEN='PRIVATE KEY' x='token=' ; rm -rf / #'",
    ],
)
def test_nothing_that_a_shell_would_run_hides_behind_a_secret(line: str) -> None:
    for shown in (redact_text(line), redact_text(line, whole=True)):
        assert "rm" in shown
        assert "-rf" in shown


@pytest.mark.parametrize(
    "text",
    [
        'x = "password=" + remove(home) + "x"',
        'x = "token=" if remove else "x"',
        "mysql --password 'hunter remove'",
    ],
)
def test_who_decides_by_what_is_shown_sees_all_but_plain_words(text: str) -> None:
    call = Call(
        caller=Caller(), server="s", tool="t", arguments={"a": [text]}, effect=Effect.DESTRUCTIVE
    )
    assert "remove" in json.dumps(call.asked_arguments)
    assert MASK in redact("TOKEN='hunter22' PASSWORD: hunter23", whole=True)
    assert "hunter2" not in redact("TOKEN='hunter22' PASSWORD: hunter23", whole=True)


@pytest.mark.parametrize("name", ["GIT_ASKPASS", "SUDO_ASKPASS", "ssh_askpass"])
def test_the_program_that_would_ask_for_a_password_is_shown(name: str) -> None:
    """It is run by git, sudo and ssh: who approves must see which one it is."""
    assert redact({"env": {name: "/tmp/x"}}) == {"env": {name: "/tmp/x"}}


def test_naming_one_argument_a_secret_does_not_hide_another_from_the_owner() -> None:
    shown = redact({"token": "rm -rf /", "command": "rm -rf /"})
    assert shown == {"token": MASK, "command": "rm -rf /"}


SECRETS = st.from_regex(r"[A-Za-z0-9]{12,24}", fullmatch=True)
NAMES = st.sampled_from(["password", "token", "api_key", "note", "path", "argv", "vault_word"])
PLAIN = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(alphabet="xyz -", max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(NAMES, inner, max_size=3),
    max_leaves=8,
)


@given(SECRETS, PLAIN, st.sampled_from(["password", "vault_word"]), PLAIN)
def test_no_planted_secret_survives_and_the_digest_still_sees_it(
    secret: str, around: Any, name: str, beside: Any
) -> None:
    def call(word: str) -> Call:
        return Call(
            caller=Caller(),
            server="s",
            tool="t",
            arguments={
                "a": around,
                "b": [{name: word}, beside],
                "c": f"run --token {word}",
                "d": ["run", "--secret", word],
                "e": f"scheme://user:{word}@host",
            },
            effect=Effect.DESTRUCTIVE,
            secret_names=frozenset({"vault_word"}),
        )

    planted = call(secret)
    assert secret not in json.dumps(planted.shown_arguments)
    assert secret not in json.dumps(planted.asked_arguments)
    assert secret in planted.secret_values
    assert secret not in without(f"it was '{secret}'!", planted.secret_values)
    assert planted.digest != call(f"{secret}x").digest
    assert planted.digest == call(secret).digest


def test_long_text_keeps_its_ends_and_its_length_and_hides_secrets_in_them() -> None:
    middle = "x" * 3 * LONG_TEXT_CHARS
    shown = redact({"content": f"TOKEN=hunter22 {middle} TOKEN=hunter23"})["content"]
    assert len(shown) < LONG_TEXT_CHARS
    assert f"[{len(middle) + 30} characters, sha256 " in shown
    assert "hunter2" not in shown


def test_a_cut_does_not_uncover_the_middle_of_a_key() -> None:
    key = f"-----BEGIN PRIVATE KEY-----\n{(BASE64 + chr(10)) * 60}-----END PRIVATE KEY-----"
    assert BASE64[:20] not in redact(key)
    assert BASE64[:20] not in redact("x" * 500_000 + key)
    assert BASE64[:20] not in redact(key + "x" * 500_000)


@pytest.mark.parametrize(
    "unit",
    [
        "-",
        "a",
        "TOKEN",
        "eyJ-",
        "eyJaaaaaaaa.",
        "://a:",
        "http://",
        "-----BEGIN ",
        "pass_",
        "'",
        "sk-",
        "-----BEGIN PRIVATE KEY-----",
        'password="',
        "bearer ",
        "--token ",
        "token ",
        "A \\n",
        "a_token_b",
    ],
)
@pytest.mark.timeout(60)
def test_no_text_makes_redaction_take_quadratic_time(unit: str) -> None:
    """Quadratic time over a megabyte is an hour; the limit of a minute needs no exact clock."""
    redact_text(unit * (1_000_000 // len(unit)))


def test_secret_values_are_found_in_any_depth_and_short_ones_are_not_used() -> None:
    values = secret_values(
        {"a": [{"password": ["longer", "abc", {"x": "deeper"}]}], "note": "plain", "own": "masked"},
        secret_names=frozenset({"own"}),
    )
    assert values == {"longer", "deeper", "masked"}


def test_a_log_line_and_its_traceback_carry_no_secret_of_the_call() -> None:
    formatter = RedactingFormatter("%(message)s")
    error = ValueError("bad word hunter22")
    raised = (type(error), error, None)
    record = logging.LogRecord("n", logging.ERROR, "f", 1, "for %s", ("hunter22",), raised)
    with hiding(frozenset({"hunter22"})):
        assert "hunter22" not in formatter.format(record)
    assert "hunter22" in formatter.format(record), "outside of the call nothing is known of it"
