"""The host's key: Ed25519, made once, in one file that only its owner can read.

It signs the ledger's checkpoints. The file holds the private key in the one-line form that goes
with C2SP signed notes, `PRIVATE+KEY+NAME+KEYID+BASE64(1 ‖ seed)`; beside it `host.pub` holds the
verifier key, which is what others need. Whoever can read the private key can sign as this host, so
what convicts a rewritten ledger is an older checkpoint that is kept elsewhere, not this file.
"""

from __future__ import annotations

import base64
import binascii
import os
import re
import secrets
import socket
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from hostwright_kit.errors import HostError
from hostwright_kit.signed_note import ED25519, NoteError, Signer

KEY_FILE = "host.key"
PUBLIC_FILE = "host.pub"
_PREFIX = "PRIVATE+KEY+"


def host_signer(state_dir: Path) -> Signer:
    """The host's signer; the key is made when there is none. Raises `HostError`."""
    path = state_dir / KEY_FILE
    try:
        if not path.exists():
            _create(path)
        signer = _read(path)
        _publish(state_dir / PUBLIC_FILE, signer.verifier.line())
    except OSError as error:
        raise HostError(
            f"The host's key {path} cannot be used: {error.strerror}.",
            fix="Give this user the file and its folder (chown, chmod 0600), or free disk space.",
            code="host_key_unavailable",
        ) from error
    return signer


def _create(path: Path) -> None:
    """Several processes may come at once: the first whole file stays."""
    host = re.sub(r"[^A-Za-z0-9.-]", "-", socket.gethostname()) or "host"
    # A host name is no one's alone; the log's name must be.
    signer = Signer(
        f"{host}/hostwright-{secrets.token_hex(4)}", key := Ed25519PrivateKey.generate()
    )
    blob = base64.b64encode(bytes([ED25519]) + key.private_bytes_raw()).decode()
    line = f"{_PREFIX}{signer.verifier.name}+{signer.verifier.key_id.hex()}+{blob}\n"
    aside = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    handle = os.open(aside, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    try:
        with os.fdopen(handle, "w") as file:
            file.write(line)
            file.flush()
            os.fsync(file.fileno())
        if not path.exists():
            # A link, because a rename would replace the key of whoever was faster.
            os.link(aside, path)
    except FileExistsError:
        return
    finally:
        aside.unlink()


def _read(path: Path) -> Signer:
    line = path.read_text(encoding="ascii", errors="replace").strip()
    try:
        return _parse(line)
    except (NoteError, binascii.Error, ValueError) as error:
        raise HostError(
            f"The host's key {path} is damaged.",
            fix=f"Restore it from a backup, or move it away (mv {path} {path}.damaged): a new one "
            "is made, and checkpoints signed with the old key verify with its public key only.",
            code="host_key_damaged",
        ) from error


def _parse(line: str) -> Signer:
    name, _, rest = line.removeprefix(_PREFIX).partition("+")
    stated, _, blob = rest.partition("+")
    raw = base64.b64decode(blob, validate=True)
    if not line.startswith(_PREFIX) or len(raw) != 33 or raw[0] != ED25519:
        raise NoteError("it is not an Ed25519 key")
    signer = Signer(name, Ed25519PrivateKey.from_private_bytes(raw[1:]))
    if signer.verifier.key_id.hex() != stated:
        raise NoteError("its id does not fit")
    return signer


def _publish(path: Path, line: str) -> None:
    if path.exists() and path.read_text(encoding="ascii", errors="replace").strip() == line:
        return
    aside = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    aside.write_text(f"{line}\n", encoding="ascii")
    aside.replace(path)
