"""What the gateway asks about each request: what this client may see, whose server it is.

Joins the manifests (`[guard]`, `[tools]`), the tokens' rules and the guard of third-party servers,
so that the gateway needs to know one object.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from hostwright.gateway.turn import once_per_turn
from hostwright.guarded.pipeline import ThirdPartyGuard
from hostwright.manifest import SUPERVISOR, Manifest
from hostwright.manifest_rules import GuardRules
from hostwright_kit.guard import Guard
from hostwright_kit.token_rules import ALL, SEPARATOR, TokenRules
from hostwright_kit.tokens import Tokens

# A token that is not in the database: `HOSTWRIGHT_HTTP_TOKEN`, which has a name and no rules.
ENVIRONMENT_TOKEN = "environment"  # noqa: S105 - a name


class Policing:
    """The rules of one installation, by server and by token."""

    def __init__(self, guard: Guard, manifests: Sequence[Manifest], tokens: Tokens) -> None:
        self.guard = ThirdPartyGuard(guard)
        self._tokens = tokens
        self._rules: dict[str, TokenRules] = {}
        self._rules_of = -1
        self._manifests: dict[str, Manifest] = {}
        self.adopt(manifests)

    def adopt(self, manifests: Sequence[Manifest]) -> None:
        """From now on these manifests hold."""
        self._manifests = {manifest.name: manifest for manifest in manifests}

    def guard_rules(self, server: str) -> GuardRules | None:
        """`[guard]` of a third-party server; None for ours, which judge for themselves."""
        manifest = self._manifests.get(server)
        if server == SUPERVISOR or (manifest is not None and manifest.entry_point is not None):
            return None
        return manifest.guard if manifest is not None else GuardRules()

    def token_rules(self, token: str | None) -> TokenRules:
        """What the holder of this token sees; who shows none came over the owner's own socket."""
        if token is None or token == ENVIRONMENT_TOKEN:
            return ALL
        if (version := once_per_turn(self._tokens.version)) != self._rules_of:
            self._rules, self._rules_of = {}, version
        found = self._rules.get(token)
        if found is None:
            read = self._tokens.rules(token)
            # The one object that stands for no rules is recognised by what it is.
            found = self._rules[token] = ALL if read == ALL else read
        return found

    def sees(self, token: str | None, server: str | None, tool: str | None) -> bool:
        """Whether the holder of this token may know what this server, or this tool of it, does.

        What is of no server is for those from whom nothing is hidden.
        """
        rules = self.token_rules(token)
        if server is None or rules.hides_nothing:
            return rules.hides_nothing
        if tool is None:
            return rules.sees_server(server)
        manifest = self._manifests.get(server)
        renamed = manifest.tools.rename if manifest is not None else {}
        # The names that it may be listed under, at this endpoint or that.
        names = {tool, renamed.get(tool, tool)}
        return rules.sees_tool(server, *names, *(f"{server}{SEPARATOR}{name}" for name in names))

    def about(self) -> Mapping[str, str]:
        """Server → description, for the search."""
        return {name: manifest.description for name, manifest in self._manifests.items()}
