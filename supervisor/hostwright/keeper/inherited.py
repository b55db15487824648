"""What a process of ours inherits of an environment, by name. Few imports: the zygote is begun
before anything else of the daemon is there.
"""

from __future__ import annotations

from collections.abc import Mapping

from hostwright_kit.redact import is_secret_name

MARK = "HOSTWRIGHT_CHILD"
"""The variable that says whose process a process is; see `processes`."""
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


def for_zygote(environ: Mapping[str, str]) -> dict[str, str]:
    """What the zygote is started with: nothing that a server is given, so no secret.

    Beside the ordinary, what an interpreter and the C library read when they start, because the
    zygote's is its children's; whoever needs another one is not forked.
    """
    found = {
        name: value
        for name, value in environ.items()
        if passes_here(name) and not is_secret_name(name)
    }
    # Else setting the title would write over the environment, which must stay readable (marks).
    return {**found, "SPT_NOENV": "1"}


def passes(name: str) -> bool:
    """To any program: what it needs to find its way."""
    return name in _ORDINARY or name.startswith("LC_")


def passes_here(name: str) -> bool:
    """To code that is not ours but runs in the Python environment that we run in."""
    return passes(name) or (name.startswith(AT_EXEC) and not is_secret_name(name))
