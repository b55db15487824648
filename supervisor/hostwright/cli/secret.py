"""Commands of the vault: `hostwright secret …`. They work without a daemon and print no value."""

from __future__ import annotations

import sys
from collections.abc import Generator
from contextlib import contextmanager
from getpass import getpass
from typing import TYPE_CHECKING, Annotated, Literal

from cyclopts import App, Parameter

from hostwright.cli.output import EXIT_FAILED, cell, done, make_table, out, print_json
from hostwright_kit.errors import HostError
from hostwright_kit.paths import resolve_paths

if TYPE_CHECKING:
    from hostwright_kit.vault import Vault

Json = Annotated[bool, Parameter(name="--json", negative="", help="Print JSON.")]
# The vault's own `Layer`, spelt out: importing it would import cryptography for every command.
To = Literal["keyring", "systemd", "passphrase", "file"]
WORDS = {
    "keyring": "in the OS keyring",
    "systemd": "a systemd credential",
    "passphrase": "made of a passphrase",
    "file": "in a 0600 file beside it",
}


def register(app: App) -> None:
    """Add the commands."""
    secret = App(name="secret", help="The vault: secrets that servers get at their start.")
    secret.command(set_, name="set")
    secret.command(list_, name="list")
    secret.command(delete)
    secret.command(test)
    secret.command(rotate)
    app.command(secret)


def set_(
    name: str,
    *,
    server: Annotated[
        list[str] | None,
        Parameter(negative="", help="Who may open it; give it again for each further server."),
    ] = None,
    json: Json = False,
) -> None:
    """Keep a secret: asked on the terminal without echo, or read from stdin.

    Without --server an entry stays open to whom it was; a new one is open to the servers whose
    manifests name it already.
    """
    from pydantic import SecretStr

    with _vault() as vault:
        known = {one.name for one in vault.list()}
        servers = _namers(name) if server is None and name not in known else server
        kept = vault.set(name, SecretStr(_value(name)), servers=servers)
        layer = vault.status().layer
    if json:
        print_json(kept)
        return
    whom = ", ".join(kept.servers)
    done(f"{name} is kept (version {kept.version}); the vault's key is {WORDS[layer or 'file']}.")
    if whom:
        out.print(cell(f"It is opened for: {whom}. A running server gets it when it is restarted."))
    else:
        out.print("No server may open it yet: name it in a manifest's [secrets] and --server.")


def list_(*, json: Json = False) -> None:
    """Show the entries and for whom they open, never their values."""
    with _vault() as vault:
        entries, status = vault.list(), vault.status()
    if json:
        print_json({"layer": status.layer, "entries": [one.model_dump() for one in entries]})
        return
    if not entries:
        out.print("The vault is empty. Keep something: hostwright secret set NAME")
        return
    table = make_table("name", "servers", "version", "updated")
    for one in entries:
        servers = cell(", ".join(one.servers) or "–")
        table.add_row(cell(one.name), servers, str(one.version), one.updated)
    out.print(table)
    out.print(f"The vault's key is {WORDS[status.layer or 'file']}.")


def delete(name: str, *, json: Json = False) -> None:
    """Forget a secret."""
    with _vault() as vault:
        vault.delete(name)
    print_json({"deleted": name}) if json else done(f"{name} is deleted.")


def test(*, json: Json = False) -> None:
    """Open every entry and say which do not open; exit code 1 when one does not."""
    with _vault() as vault:
        found, status = vault.test(), vault.status()
    if json:
        print_json({"layer": status.layer, "entries": [one.model_dump() for one in found]})
    else:
        for one in found:
            if one.ok:
                done(one.name)
            else:
                out.print("[red]✗[/]", cell(f"{one.name}: {one.problem}"))
        if status.layer:
            out.print(f"{len(found)} entries; the vault's key is {WORDS[status.layer]}.")
        else:
            out.print("The vault is empty.")
    if not all(one.ok for one in found):
        raise SystemExit(EXIT_FAILED)


def rotate(
    *,
    to: Annotated[To | None, Parameter(help="Where the new key is kept; default: as now.")] = None,
    json: Json = False,
) -> None:
    """Give the vault a new key; the values stay."""
    with _vault() as vault:
        status = vault.rotate(to)
    if json:
        print_json(status)
    else:
        where = WORDS[status.layer or "file"]
        done(f"{status.entries} entries have a new key; it is {where}.")


@contextmanager
def _vault() -> Generator[Vault]:
    from hostwright_kit.ledger import Ledger
    from hostwright_kit.runtime import LEDGER_FILE
    from hostwright_kit.vault import open_vault

    state = resolve_paths().ensure().state_dir
    ledger = Ledger(state / LEDGER_FILE)
    try:
        vault = open_vault(state, ledger, ask=_passphrase if sys.stdin.isatty() else None)
        try:
            yield vault
        finally:
            vault.close()
    finally:
        ledger.close()


def _namers(entry: str) -> list[str]:
    """The servers whose manifests name this entry."""
    from hostwright.manifest_files import read_manifests

    manifests, _ = read_manifests(resolve_paths())
    return [manifest.name for manifest in manifests if entry in manifest.vault_entries]


def _value(name: str) -> str:
    if not sys.stdin.isatty():
        # One end of line belongs to `echo`, not to the secret.
        return sys.stdin.read().removesuffix("\n").removesuffix("\r")
    value = getpass(f"Value of {name}: ")
    if value != getpass("The same again: "):
        raise HostError(
            "The two values differ.",
            fix=f"Run `hostwright secret set {name}` again.",
            code="mismatch",
        )
    return value


def _passphrase(new: bool) -> str:
    if not new:
        return getpass("Passphrase of the vault: ")
    phrase = getpass("New passphrase (12 characters or more): ")
    if phrase != getpass("The same again: "):
        raise HostError("The two passphrases differ.", fix="Run it again.", code="mismatch")
    return phrase
