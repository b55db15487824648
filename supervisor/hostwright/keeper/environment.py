"""The environment that a server is started with.

Third-party servers get what any program needs to find its way (path, home, locale, proxies,
certificates) and what their manifest says, nothing else of the daemon's: a package from a registry
has no business with tokens that happen to be exported. Our own servers get the daemon's environment
without what looks like a secret. Secrets are handed over by name, with `${VAR}` in the manifest.
"""

from __future__ import annotations

from collections.abc import Mapping

from hostwright.keeper.inherited import MARK, passes, passes_here
from hostwright.manifest import Manifest
from hostwright.notify import VARIABLES as SYSTEMD_VARIABLES
from hostwright_kit.redact import is_secret_name

# Of the process that it was set for, never of another one.
_PERSONAL = frozenset({MARK, "HOSTWRIGHT_LINK_FD", *SYSTEMD_VARIABLES})


def build_environment(
    manifest: Manifest, environ: Mapping[str, str], added: Mapping[str, str], mark: str
) -> dict[str, str]:
    """The whole environment of one start; `added` wins over what is inherited."""
    may = _passes_to_ours if manifest.entry_point else passes
    if manifest.fastmcp:
        may = passes_here
    inherited = {name: value for name, value in environ.items() if may(name)}
    return {**inherited, **added, MARK: mark}


def _passes_to_ours(name: str) -> bool:
    if name in _PERSONAL:
        return False
    # Settings as variables (HOSTWRIGHT_<TABLE>__<KEY>) are meant for our servers.
    return (name.startswith("HOSTWRIGHT_") and "__" in name) or not is_secret_name(name)
