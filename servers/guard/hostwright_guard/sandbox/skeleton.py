"""The /etc that every sandbox sees: made once per server from what programs need of the real one.

One folder instead of twenty mounts: each mount costs a start time. It holds no user but `sandbox`,
no host's name, no network of the machine. Writes only the folder that it is given.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import tempfile
from pathlib import Path

# The loader's cache, alternatives, certificates, the time zone, lists of names.
COPIED = (
    "ld.so.cache", "ld.so.conf", "ld.so.conf.d", "alternatives", "ssl/certs", "ssl/openssl.cnf",
    "pki/tls/certs", "pki/ca-trust/extracted", "ca-certificates", "ca-certificates.conf",
    "localtime", "timezone", "mime.types", "protocols", "services", "magic", "magic.mime",
)  # fmt: skip
NOBODY = 65_534
HOSTS = "127.0.0.1 localhost sandbox\n::1 localhost\n"
WRITTEN = {
    "passwd": f"sandbox:x:{NOBODY}:{NOBODY}:sandbox:/tmp:/bin/sh\n",
    "group": f"sandbox:x:{NOBODY}:\n",
    "hosts": HOSTS,
    "nsswitch.conf": "passwd: files\ngroup: files\nhosts: files dns\n",
    "resolv.conf": "nameserver 127.0.0.1\noptions timeout:1 attempts:1\n",
    "machine-id": "0" * 32 + "\n",
}
_PREFIX = "sandbox-etc-"


def make_skeleton(runtime_dir: Path, source: Path = Path("/etc")) -> Path:
    """A new folder in `runtime_dir`; those of servers that are gone are removed. Blocking."""
    for old in runtime_dir.glob(f"{_PREFIX}*"):
        pid = old.name.removeprefix(_PREFIX).partition("-")[0]
        if not pid.isdecimal() or not Path(f"/proc/{pid}").exists():
            shutil.rmtree(old, ignore_errors=True)
    folder = Path(tempfile.mkdtemp(prefix=f"{_PREFIX}{os.getpid()}-", dir=runtime_dir))
    for name in COPIED:
        # What this user may not read, no command of this user could.
        with contextlib.suppress(FileNotFoundError, PermissionError, shutil.Error):
            _copy(source / name, folder / name)
    for name, text in WRITTEN.items():
        (folder / name).write_text(text)
    folder.chmod(0o755)
    return folder


def _copy(source: Path, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    if source.is_symlink():
        target.symlink_to(source.readlink())
    elif source.is_dir():
        shutil.copytree(source, target, symlinks=True, dirs_exist_ok=True)
    else:
        shutil.copyfile(source, target)
