"""The environment that a server is started with.

Third-party servers get what any program needs to find its way (path, home, locale, proxies,
certificates) and what their manifest says, nothing else of the daemon's: a package from a registry
has no business with tokens that happen to be exported. Our own servers get the daemon's environment
without what looks like a secret. Secrets are handed over by name, with `${VAR}` in the manifest.
"""

from __future__ import annotations

from collections.abc import Mapping

from hostwright.keeper.processes import MARK
from hostwright.manifest import Manifest
from hostwright.notify import VARIABLES as SYSTEMD_VARIABLES
from hostwright_kit.redact import is_secret_name

_ORDINARY = frozenset(
    {
        *("PATH", "HOME", "USER", "LOGNAME", "SHELL", "TERM", "TMPDIR", "TZ", "LANG", "LANGUAGE"),
        *("HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY", "ALL_PROXY"),
        *("http_proxy", "https_proxy", "no_proxy", "all_proxy"),
        *("SSL_CERT_FILE", "SSL_CERT_DIR", "NODE_EXTRA_CA_CERTS", "REQUESTS_CA_BUNDLE"),
        *("XDG_CONFIG_HOME", "XDG_CACHE_HOME", "XDG_DATA_HOME", "XDG_STATE_HOME"),
        *("XDG_RUNTIME_DIR", "DISPLAY", "WAYLAND_DISPLAY", "DBUS_SESSION_BUS_ADDRESS"),
    }
)
# Read when an interpreter or the C library starts: no fork can give a child other ones.
AT_EXEC = ("PYTHON", "LD_", "MALLOC_", "GLIBC_", "OPENBLAS_", "OMP_", "MKL_", "BLIS_")
# Of the process that it was set for, never of another one.
_PERSONAL = frozenset({MARK, "HOSTWRIGHT_LINK_FD", *SYSTEMD_VARIABLES})


def build_environment(
    manifest: Manifest, environ: Mapping[str, str], added: Mapping[str, str], mark: str
) -> dict[str, str]:
    """The whole environment of one start; `added` wins over what is inherited."""
    passes = _passes_to_ours if manifest.entry_point else _passes_to_others
    if manifest.fastmcp:
        passes = _passes_to_others_here
    inherited = {name: value for name, value in environ.items() if passes(name)}
    return {**inherited, **added, MARK: mark}


def for_zygote(environ: Mapping[str, str]) -> dict[str, str]:
    """What the zygote is started with: nothing that a server is given, so no secret.

    Beside the ordinary, what an interpreter and the C library read when they start, because the
    zygote's is its children's; whoever needs another one is not forked.
    """
    found = {
        name: value
        for name, value in environ.items()
        if _passes_to_others_here(name) and not is_secret_name(name)
    }
    # Else setting the title would write over the environment, which must stay readable (marks).
    return {**found, "SPT_NOENV": "1"}


def _passes_to_others(name: str) -> bool:
    return name in _ORDINARY or name.startswith("LC_")


def _passes_to_others_here(name: str) -> bool:
    """To code that is not ours but runs in the Python environment that we run in."""
    return _passes_to_others(name) or (name.startswith(AT_EXEC) and not is_secret_name(name))


def _passes_to_ours(name: str) -> bool:
    if name in _PERSONAL:
        return False
    # Settings as variables (HOSTWRIGHT_<TABLE>__<KEY>) are meant for our servers.
    return (name.startswith("HOSTWRIGHT_") and "__" in name) or not is_secret_name(name)
