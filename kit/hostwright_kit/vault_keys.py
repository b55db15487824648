"""Where the vault's key-encryption key (KEK) comes from: four layers, the first that is there.

1. `keyring`: the OS keyring (Secret Service, macOS Keychain, …), when a real one answers.
2. `systemd`: a credential named `hostwright-vault` in `$CREDENTIALS_DIRECTORY` (systemd.exec(5)).
3. `passphrase`: scrypt over a passphrase, from the file that `HOSTWRIGHT_VAULT_PASSPHRASE_FILE`
   names, or asked on the terminal.
4. `file`: 256 random bits in a 0600 file in the state folder.

A layer is chosen once, when the vault is made or its key is rotated, and noted in the database;
from then on a key is looked for there and nowhere else. A key file beside the database protects
copies of the database alone (a backup, a disk that is sold), not against who can read the folder.
"""

from __future__ import annotations

import binascii
import os
import secrets
import stat
import threading
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Literal, cast

from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF
from cryptography.hazmat.primitives.kdf.scrypt import Scrypt
from pydantic import BaseModel

from hostwright_kit.atomic import write_private
from hostwright_kit.errors import HostError
from hostwright_kit.vault_seal import KEY_BYTES, new_key

Layer = Literal["keyring", "systemd", "passphrase", "file"]
LAYERS: tuple[Layer, ...] = ("keyring", "systemd", "passphrase", "file")
PASSPHRASE_FILE_VARIABLE = "HOSTWRIGHT_VAULT_PASSPHRASE_FILE"  # noqa: S105 - a variable's name
CREDENTIALS_VARIABLE = "CREDENTIALS_DIRECTORY"
CREDENTIAL = "hostwright-vault"
SERVICE = "hostwright-vault"
MIN_PASSPHRASE_CHARS = 12
MIN_CREDENTIAL_BYTES = 16
MAX_KEY_FILE_BYTES = 64 * 1024
# A keyring may ask its user to unlock it, on a screen that nobody sits before.
KEYRING_SECONDS = 15.0
# RFC 7914 with the cost that OWASP advises: 128 MiB, about half a second.
SCRYPT_N, SCRYPT_R, SCRYPT_P = 2**17, 8, 1

Ask = Callable[[bool], str]
"""Asks for the passphrase; told whether it is a new one, which is asked twice."""


class KeyRecord(BaseModel, frozen=True):
    """How a KEK is found again. Holds nothing that is secret."""

    id: str
    layer: Layer
    salt: str = ""
    n: int = SCRYPT_N
    r: int = SCRYPT_R
    p: int = SCRYPT_P


class Keys:
    """Makes, finds and forgets KEKs in the four layers. Blocking."""

    def __init__(
        self, folder: Path, *, environ: Mapping[str, str] | None = None, ask: Ask | None = None
    ) -> None:
        """`ask` puts the question for a passphrase; without it only the file counts."""
        self._folder = folder
        self._environ = os.environ if environ is None else environ
        self._ask = ask

    def best(self) -> Layer:
        """The first layer that can hold a new key here and now."""
        if _real_keyring() is not None:
            return "keyring"
        if self._credential_file() is not None:
            return "systemd"
        if self._environ.get(PASSPHRASE_FILE_VARIABLE):
            return "passphrase"
        return "file"

    def make(self, layer: Layer) -> tuple[KeyRecord, bytes]:
        """A new KEK, kept in its layer before this returns."""
        key_id = secrets.token_hex(8)
        if layer in ("systemd", "passphrase"):
            record = KeyRecord(id=key_id, layer=layer, salt=secrets.token_hex(32))
            return record, self._derive(record, new=True)
        record, kek = KeyRecord(id=key_id, layer=layer), new_key()
        if layer == "file":
            self._write_file(record, kek)
        else:
            backend = _real_keyring()
            if backend is None:
                raise _no_keyring()
            text = kek.hex()
            _bounded(lambda: backend.set_password(SERVICE, self._account(record), text))
        if self.find(record) != kek:
            raise HostError(
                f"The {layer} did not give back the key that was put there.",
                fix="Choose another layer: hostwright secret rotate --to file.",
                code="vault_key_unavailable",
            )
        return record, kek

    def find(self, record: KeyRecord) -> bytes:
        """The KEK of this record; raises with the remedy when it cannot be had."""
        match record.layer:
            case "file":
                return self._read_file(record)
            case "keyring":
                return self._read_keyring(record)
            case _:
                return self._derive(record, new=False)

    def forget(self, record: KeyRecord) -> None:
        """Delete a KEK that nothing is sealed with any more."""
        if record.layer == "file":
            self._file(record).unlink(missing_ok=True)
        elif record.layer == "keyring" and (backend := _real_keyring()) is not None:
            _bounded(lambda: backend.delete_password(SERVICE, self._account(record)))

    # -- the layers ------------------------------------------------------------------------------

    def _account(self, record: KeyRecord) -> str:
        # Several installations may share one keyring.
        return f"{self._folder}:{record.id}"

    def _read_keyring(self, record: KeyRecord) -> bytes:
        backend = _real_keyring()
        if backend is None:
            raise _no_keyring()
        found = _bounded(lambda: backend.get_password(SERVICE, self._account(record)))
        if not isinstance(found, str):
            raise HostError(
                "The vault's key is not in the OS keyring.",
                fix=f"Restore the keyring item {SERVICE!r} of this account from a backup; without "
                "it the entries cannot be opened.",
                code="vault_key_missing",
            )
        return _from_hex(found, "the OS keyring")

    def _file(self, record: KeyRecord) -> Path:
        return self._folder / f"vault-{record.id}.key"

    def _write_file(self, record: KeyRecord, kek: bytes) -> None:
        file = self._file(record)
        try:
            write_private(file, kek.hex().encode() + b"\n")
        except OSError as error:
            raise HostError(
                f"The key file {file} cannot be written: {error.strerror}.",
                fix="Free disk space or mend the permissions of the state folder.",
                code="vault_key_unavailable",
            ) from error

    def _read_file(self, record: KeyRecord) -> bytes:
        file = self._file(record)
        return _from_hex(_read_private(file, "key file").decode("ascii", "replace"), str(file))

    def _credential_file(self) -> Path | None:
        folder = self._environ.get(CREDENTIALS_VARIABLE)
        file = Path(folder, CREDENTIAL) if folder else None
        return file if file is not None and file.is_file() else None

    def _derive(self, record: KeyRecord, *, new: bool) -> bytes:
        salt = bytes.fromhex(record.salt)
        if record.layer == "systemd":
            material = self._credential()
            info = b"hostwright vault"
            return HKDF(algorithm=SHA256(), length=KEY_BYTES, salt=salt, info=info).derive(material)
        phrase = self._passphrase(new=new).encode("utf-8", "surrogatepass")
        return Scrypt(salt=salt, length=KEY_BYTES, n=record.n, r=record.r, p=record.p).derive(
            phrase
        )

    def _credential(self) -> bytes:
        file = self._credential_file()
        if file is None:
            raise HostError(
                f"The vault's key is the systemd credential {CREDENTIAL!r}, which is not here.",
                fix=f"Run inside the unit that has it (LoadCredentialEncrypted={CREDENTIAL}:…).",
                code="vault_key_missing",
            )
        try:
            material = file.read_bytes()[:MAX_KEY_FILE_BYTES]
        except OSError as error:
            raise _unreadable(file, "credential", error) from error
        if len(material) < MIN_CREDENTIAL_BYTES:
            raise HostError(
                f"The credential {CREDENTIAL!r} has {len(material)} bytes.",
                fix=f"Give it at least {MIN_CREDENTIAL_BYTES} random ones.",
                code="vault_key_weak",
            )
        return material

    def _passphrase(self, *, new: bool) -> str:
        if named := self._environ.get(PASSPHRASE_FILE_VARIABLE):
            content = _read_private(Path(named), "passphrase file")
            phrase = content.decode("utf-8", "replace").rstrip("\r\n")
        elif self._ask is not None:
            phrase = self._ask(new)
        else:
            raise HostError(
                "The vault is locked with a passphrase, and nobody is there to ask.",
                fix=f"Name a 0600 file that holds it in {PASSPHRASE_FILE_VARIABLE}, in the "
                "environment of the daemon.",
                code="vault_locked",
            )
        if new and len(phrase) < MIN_PASSPHRASE_CHARS:
            raise HostError(
                f"The passphrase has {len(phrase)} characters.",
                fix=f"Choose at least {MIN_PASSPHRASE_CHARS}.",
                code="vault_key_weak",
            )
        return phrase


def _real_keyring() -> Any | None:
    """The OS keyring, unless there is none or it only pretends."""
    import keyring  # noqa: PLC0415 - looks for backends in every installed distribution
    from keyring.backends import chainer, fail, null  # noqa: PLC0415

    backend = cast("Any", keyring.get_keyring())
    if isinstance(backend, fail.Keyring | null.Keyring):
        return None
    if isinstance(backend, chainer.ChainerBackend) and not backend.backends:
        return None
    probe = secrets.token_hex(8)

    def answers() -> bool:
        backend.set_password(SERVICE, f"probe-{probe}", probe)
        try:
            return backend.get_password(SERVICE, f"probe-{probe}") == probe
        finally:
            backend.delete_password(SERVICE, f"probe-{probe}")

    try:
        return backend if _bounded(answers) else None
    except HostError:
        return None


def _bounded(work: Callable[[], Any]) -> Any:
    """`work` in a thread of its own: a keyring may wait for its user for ever."""
    results: list[Any] = []
    failures: list[Exception] = []

    def run() -> None:
        try:
            results.append(work())
        except Exception as error:  # noqa: BLE001 - each backend has errors of its own
            failures.append(error)

    thread = threading.Thread(target=run, name="keyring", daemon=True)
    thread.start()
    thread.join(KEYRING_SECONDS)
    if results:
        return results[0]
    # What a backend says may hold what it was asked to keep, so only its kind is told.
    kind = type(failures[0]).__name__ if failures else f"no answer within {KEYRING_SECONDS:g} s"
    raise HostError(
        f"The OS keyring failed ({kind}).",
        fix="Unlock it (log in, or its own program), then try again.",
        code="vault_key_unavailable",
    )


def _no_keyring() -> HostError:
    return HostError(
        "The vault's key is in the OS keyring, and none answers here.",
        fix="Unlock the keyring of this user's session; for a daemon outside of it, run "
        "`hostwright secret rotate --to file` (or passphrase) inside of it first.",
        code="vault_key_unavailable",
    )


def _read_private(file: Path, what: str) -> bytes:
    """The content of a file that only its owner may read."""
    try:
        handle = os.open(file, os.O_RDONLY | os.O_CLOEXEC)
        with os.fdopen(handle, "rb") as opened:
            info = os.fstat(opened.fileno())
            content = opened.read(MAX_KEY_FILE_BYTES)
    except FileNotFoundError:
        raise HostError(
            f"The vault's {what} {file} is missing.",
            fix="Restore it from a backup; without it the entries cannot be opened.",
            code="vault_key_missing",
        ) from None
    except OSError as error:
        raise _unreadable(file, what, error) from error
    if info.st_mode & (stat.S_IRWXG | stat.S_IRWXO):
        raise HostError(
            f"The vault's {what} {file} can be read by others (mode {info.st_mode & 0o777:o}).",
            fix=f"chmod 600 {file}; if others may have read it: hostwright secret rotate.",
            code="vault_key_exposed",
        )
    return content


def _unreadable(file: Path, what: str, error: OSError) -> HostError:
    return HostError(
        f"The vault's {what} {file} cannot be read: {error.strerror}.",
        fix="Give this user read access to it.",
        code="vault_key_unavailable",
    )


def _from_hex(text: str, where: str) -> bytes:
    try:
        key = binascii.unhexlify(text.strip())
    except (binascii.Error, ValueError):
        key = b""
    if len(key) != KEY_BYTES:
        raise HostError(
            f"What is kept in {where} is not a key of the vault.",
            fix="Restore it from a backup; the entries were left as they are.",
            code="vault_key_wrong",
        )
    return key
