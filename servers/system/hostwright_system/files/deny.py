"""What the file tools never touch, although it lies inside a root.

Three kinds, from hard to soft:

* **protected**: the suite's own folders. By path and by inode; no setting lifts it.
* **secret**: credentials at places that programs use for them (`SECRET_PLACES`). A folder that
  holds one can be neither moved nor deleted: moving `.aws` would take its file out of the rule.
* **key file**: names that mean a private key wherever they lie (`KEY_FILES`). The name travels
  with the file, so a folder that holds one (a virtual environment with its `cacert.pem`) may move.

Rules are gitignore patterns (gitignore(5), by pathspec) over the absolute path. Both sides are
compared after NFKC, case folding, dropping of invisible characters and of trailing dots and
blanks, so that a file system that treats two spellings as one cannot turn a deny into an allow.
The price is a few more names denied than a byte comparison would.

Beyond names: a file whose content *begins* as a private key is one, whatever it is called; and a
hard link is judged by its inode, see `HardLinks`. `.env` files are readable on purpose: projects
are worked on through them. Whoever wants them closed adds a rule.
"""

from __future__ import annotations

import os
import re
import stat
import threading
import time
import unicodedata
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from glob import iglob
from pathlib import Path
from typing import Literal

from pathspec import GitIgnoreSpec

SECRET_PLACES: tuple[str, ...] = (
    # System accounts and services
    *("/etc/shadow*", "/etc/gshadow*", "/etc/master.passwd", "/etc/security/opasswd"),
    *("/etc/ssl/private/**", "/etc/pki/tls/private/**", "/etc/krb5.keytab", "**/*.keytab"),
    *("/etc/ssh/ssh_host_*", "!/etc/ssh/ssh_host_*.pub", "/etc/wireguard/**", "/etc/ipsec.secrets"),
    *("/etc/ppp/*-secrets", "/etc/NetworkManager/system-connections/**", "/etc/credstore*/**"),
    *("/etc/kubernetes/*.conf", "/etc/rancher/k3s/k3s.yaml", "/etc/mysql/debian.cnf"),
    *("/etc/docker/key.json", "/etc/letsencrypt/accounts/**", "/etc/iscsi/iscsid.conf"),
    # Keys of one user. Under .ssh everything is a key unless its name says otherwise.
    *("**/.ssh/*", "!**/.ssh/*.pub", "!**/.ssh/config", "!**/.ssh/config.d/**"),
    *("!**/.ssh/known_hosts*", "!**/.ssh/authorized_keys*"),
    *("**/.gnupg/private-keys-v1.d/**", "**/.gnupg/secring.gpg*", "**/.gnupg/openpgp-revocs.d/**"),
    *("**/.config/sops/age/**", "**/.config/age/**", "**/.step/secrets/**", "**/.minisign/**"),
    # Credentials of command lines
    *("**/.aws/credentials*", "**/.aws/sso/cache/**", "**/.aws/cli/cache/**"),
    *("**/.config/gcloud/**", "**/.azure/**", "**/.oci/**", "**/.config/doctl/**"),
    *("**/.kube/config*", "**/.kube/cache/oidc-login/**", "**/kubeconfig", "**/*.kubeconfig"),
    *("**/.docker/config.json", "**/.config/containers/auth.json", "**/.config/helm/registry/**"),
    # What an agent's harness may run or answer by itself (hooks), and its tokens: who can write
    # here needs no approval any more.
    *("**/.claude/settings*.json", "**/.claude.json*", "**/.codex/config.toml"),
    *("**/claude_desktop_config.json", "**/.cursor/mcp.json", "**/.openclaw/openclaw.json"),
    *("**/opencode.json", "**/opencode.jsonc", "**/.config/opencode/**", "**/.opencode/**"),
    *("**/.vscode/mcp.json", "**/Code/User/mcp.json", "**/.gemini/settings.json"),
    # Left beside such a file by `hostwright install`: what was in it is in here.
    "**/*.hostwright-backup-*",
    *("**/.netrc", "**/_netrc", "**/.authinfo*", "**/.pgpass", "**/.my.cnf", "**/.mylogin.cnf"),
    *("**/.git-credentials", "**/.config/git/credentials", "**/.config/gh/hosts.yml"),
    *("**/.config/glab-cli/config.yml", "**/.config/hub", "**/.subversion/auth/**"),
    *("**/.pypirc", "**/.cargo/credentials*", "**/.gem/credentials", "**/.vault-token"),
    *("**/.terraform.d/credentials.tfrc.json", "**/.terraformrc", "**/.config/rclone/rclone.conf"),
    *("**/.config/op/**", "**/.config/Bitwarden*/**", "**/.config/1Password/**"),
    *("**/.claude/.credentials.json", "**/.codex/auth.json", "**/opencode/auth.json"),
    *("**/.openclaw/credentials/**", "**/.gemini/oauth_creds.json"),
    # Keyrings, password stores, browsers, wallets
    *("**/.local/share/keyrings/**", "**/.local/share/kwalletd/**", "**/.password-store/**"),
    *("**/Library/Keychains/**", "**/Library/Cookies/**", "**/.mozilla/**", "**/.thunderbird/**"),
    *("**/.config/google-chrome*/**", "**/.config/chromium*/**", "**/.config/BraveSoftware/**"),
    *("**/.config/microsoft-edge*/**", "**/.config/vivaldi*/**", "**/.config/opera*/**"),
    *("**/snap/firefox/**/.mozilla/**", "**/.var/app/org.mozilla.firefox/**"),
    *("**/Library/Application Support/Google/Chrome*/**", "**/.var/app/*hrom*/config/**"),
    *("**/Library/Application Support/Firefox/**", "**/Library/Safari/**"),
    *("**/.bitcoin/wallet*", "**/.ethereum/keystore/**", "**/.electrum/wallets/**"),
    *("**/.config/solana/id.json", "**/wallet.dat"),
    # Keys by name that are as bad to lose as to show
    *("**/id_rsa*", "**/id_dsa*", "**/id_ecdsa*", "**/id_ed25519*", "!**/id_*.pub"),
)

KEY_FILES: tuple[str, ...] = (
    *("*.pem", "*.key", "*.p12", "*.pfx", "*.p8", "*.pkcs8", "*.ppk", "*.jks", "*.keystore"),
    *("*.kdb", "*.kdbx", "*.gpgkey", "*.ovpn", "*.agekey", "ssh_host_*_key"),
)

_ACCOUNT_FILES = tuple(
    Path(p) for p in ("/etc/shadow", "/etc/shadow-", "/etc/gshadow", "/etc/gshadow-")
)
_KEY_BEGINS = re.compile(
    rb"(?:\xef\xbb\xbf)?\s*(?:-{4,5} ?BEGIN [A-Z0-9 ]{0,40}PRIVATE KEY(?: BLOCK)? ?-{4,5}"
    rb"|PuTTY-User-Key-File-\d|AGE-SECRET-KEY-1|untrusted comment: minisign encrypted secret key)"
)
KEY_HEAD_BYTES = 256
_MAX_LINK_CANDIDATES = 50_000
# ctime ticks with the kernel's timer, up to 10 ms behind the clock that we read.
_CTIME_SLACK_NS = 1_000_000_000


@dataclass(frozen=True, slots=True)
class Denial:
    """Why a path is closed."""

    kind: Literal["protected", "secret", "key_file"]
    rule: str


class DenyRules:
    """The rules of one server; immutable after construction."""

    def __init__(
        self,
        protected: Sequence[Path] = (),
        *,
        deny: Sequence[str] = (),
        allow: Sequence[str] = (),
    ) -> None:
        """`deny` and `allow` are the owner's own patterns; `allow` lifts all but `protected`."""
        self.protected = tuple(dict.fromkeys(Path(os.path.realpath(p)) for p in protected))
        spelled = (*protected, *self.protected)
        self._prefixes = tuple({folded(str(p)).rstrip("/") + "/" for p in spelled})
        self._secret_rules = (*SECRET_PLACES, *deny)
        self._secret = _spec(self._secret_rules)
        self._key_file = _spec(KEY_FILES)
        self._allowed = _spec(allow)

    def why(self, path: str, *, folder: bool = False) -> Denial | None:
        """The rule that closes the absolute `path`, or None. `folder`: it is one."""
        key = folded(path)
        inside = key.rstrip("/") + "/"
        for prefix in self._prefixes:
            if inside.startswith(prefix):
                return Denial("protected", "the suite's own state")
        subject = inside.lstrip("/") if folder else key.lstrip("/")
        if (hit := self._secret.check_file(subject)).include and not self._lifted(subject):
            return Denial("secret", self._secret_rules[hit.index or 0])
        if folder:
            return None
        # The name of the file alone: what is closed by a folder's name would open on a move.
        name = key.rpartition("/")[2]
        if (hit := self._key_file.check_file(name)).include and not self._lifted(subject):
            return Denial("key_file", KEY_FILES[hit.index or 0])
        return None

    def holds_protected(self, folder: str) -> bool:
        """Whether a protected folder lies in or at `folder`: then it must stay where it is."""
        inside = folded(folder).rstrip("/") + "/"
        return any(prefix.startswith(inside) for prefix in self._prefixes)

    def begins_as_key(self, path: str, head: bytes) -> bool:
        """Whether the first `KEY_HEAD_BYTES` of a file say that it is a private key."""
        if _KEY_BEGINS.match(head) is None:
            return False
        return not self._lifted(folded(path).lstrip("/"))

    def inodes(self) -> frozenset[tuple[int, int]]:
        """(device, inode) of what is closed by identity, as of now."""
        found: set[tuple[int, int]] = set()
        for path in (*self.protected, *_ACCOUNT_FILES):
            try:
                info = path.stat()
            except OSError:
                continue  # not there, so it cannot be what was opened
            found.add((info.st_dev, info.st_ino))
        return frozenset(found)

    def _lifted(self, subject: str) -> bool:
        return bool(self._allowed.check_file(subject).include)

    def secret_files(self, homes: Iterable[Path]) -> Iterator[Path]:
        """Existing files at the places that the rules name, for `HardLinks`."""
        for rule in self._secret_rules:
            if rule.startswith("!"):
                continue
            pattern = rule.removeprefix("**/")
            bases = [Path("/")] if rule.startswith("/") else list(homes)
            for base in bases:
                matches = iglob(  # noqa: PTH207 (Path.glob cannot be told to look at hidden names)
                    pattern.lstrip("/"), root_dir=base, recursive=True, include_hidden=True
                )
                yield from (base / match for match in matches)


class HardLinks:
    """Whether a file with several names is one that is closed under another name.

    No system call lists the names of an inode. So the files at the closed places that have more
    than one name themselves are collected (almost always none), and an opened file is looked up
    among them. The collection is good for every inode that has not changed since it was made:
    linking and renaming both advance `st_ctime`.

    A file with several names that belongs to somebody else than the folder it lies in is refused:
    that is how a user makes a server that runs as root read a file of root's. Package managers that
    link from a cache (pnpm, uv) keep one owner and are not hit.
    """

    def __init__(self, rules: DenyRules, homes: Sequence[Path], *, except_below: Path | None):
        """`except_below`: the trash, whose files are copies of what was readable anyway."""
        self._rules, self._homes, self._except = rules, tuple(homes), except_below
        self._lock = threading.Lock()
        self._made_ns = 0
        self._linked: frozenset[tuple[int, int]] = frozenset()

    def why(self, info: os.stat_result, folder_uid: int) -> str | None:
        """A reason to refuse the regular file `info` found in a folder of `folder_uid`, or None."""
        if info.st_nlink < 2:
            return None
        if info.st_uid != folder_uid:
            return "it is a hard link to a file of another owner than its folder's"
        with self._lock:
            if info.st_ctime_ns >= self._made_ns - _CTIME_SLACK_NS:
                self._made_ns = time.time_ns()
                self._linked = frozenset(self._collect())
        return (
            "it is a hard link to a closed file"
            if (info.st_dev, info.st_ino) in self._linked
            else None
        )

    def _collect(self) -> Iterator[tuple[int, int]]:
        left = _MAX_LINK_CANDIDATES
        for path in self._candidates():
            left -= 1
            if not left:
                return
            try:
                info = path.lstat()
            except OSError:
                continue  # vanished between listing and looking
            if stat.S_ISREG(info.st_mode) and info.st_nlink > 1 and self._rules.why(str(path)):
                yield info.st_dev, info.st_ino

    def _candidates(self) -> Iterator[Path]:
        for folder in self._rules.protected:
            for parent, names, files in os.walk(folder):
                if self._except is not None and Path(parent) == self._except:
                    names.clear()
                    continue
                yield from (Path(parent, name) for name in files)
        yield from self._rules.secret_files(self._homes)


def folded(path: str) -> str:
    """The form of `path` in which rules and paths are compared."""
    if path.isascii():
        lowered = path.lower()
        if "./" not in lowered and " /" not in lowered and not lowered.endswith((".", " ")):
            return lowered
        return "/".join(_stripped(part) for part in lowered.split("/"))
    return "/".join(_folded_part(part) for part in path.split("/"))


def _folded_part(part: str) -> str:
    folded_text = unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", part).casefold())
    visible = "".join(c for c in folded_text if unicodedata.category(c) != "Cf")
    # Lone surrogates stand for undecodable bytes; the matcher takes valid Unicode only.
    return _stripped(visible.encode("utf-8", "replace").decode()).replace("/", "_")


def _stripped(part: str) -> str:
    return part if part in (".", "..") else part.rstrip(". ")


def _spec(patterns: Sequence[str]) -> GitIgnoreSpec:
    return GitIgnoreSpec.from_lines([folded(pattern) for pattern in patterns])
