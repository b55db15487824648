"""systemd units: the daemon with all its servers, or single servers of ours by themselves.

Without names: `hostwright.service`, of the system's manager or with `user` of the user's own. With
names: one unit per server, which listens on a socket (or TCP) and needs no daemon. Directives:
systemd.service(5), systemd.exec(5). Checked with `systemd-analyze verify` and by starting it.
"""

from __future__ import annotations

import re

from hostwright.exporting.model import Export, File, Options, Server, Suite, split

HEADER = "# Made by `hostwright export systemd`. Changes of your own: `systemctl edit {name}`."
VAULT_CREDENTIAL = "hostwright-vault"

_COMMON = """\
UMask=0077
LockPersonality=yes
LimitNOFILE=65536
"""

# What a server that looks after this machine must be able to do, each left out here for a reason.
_OPEN = """\
# Its servers look after this machine, so they see and may change it. Left open on purpose:
# - no ProtectSystem=, ProtectHome=, PrivateTmp=, PrivateDevices= or other namespaces: files are
#   edited where they are, and what is mounted in a shell is to be mounted for everybody;
# - no NoNewPrivileges=, RestrictSUIDSGID= or CapabilityBoundingSet=: packages are installed, sudo
#   is used, processes of other users are seen and signalled;
# - no SystemCallFilter=, RestrictNamespaces= or MemoryDenyWriteExecute=: containers and programs
#   that compile as they run (Node) are started from here.
# What a call may do is decided by the policy, and asked of the owner, inside each server. A suite
# that needs none of this: `hostwright export systemd --strict`.
"""

_STRICT = """\
# Closed off from the machine: right for servers that work over the network or in their own folders.
NoNewPrivileges=yes
ProtectSystem=strict
ProtectHome={home}
PrivateTmp=yes
PrivateDevices=yes
ProtectKernelModules=yes
ProtectKernelLogs=yes
ProtectKernelTunables=yes
ProtectClock=yes
ProtectHostname=yes
RestrictSUIDSGID=yes
RestrictRealtime=yes
RestrictNamespaces=yes
RestrictAddressFamilies=AF_UNIX AF_INET AF_INET6 AF_NETLINK
SystemCallArchitectures=native
SystemCallFilter=@system-service
SystemCallErrorNumber=EPERM
CapabilityBoundingSet=
# Left open: ProtectControlGroups= (servers' limits are set there), MemoryDenyWriteExecute= (Node).
"""


def render(suite: Suite, options: Options) -> Export:
    """The units."""
    if not suite.named:
        file = File(path="hostwright.service", text=_daemon(suite, options))
        return Export(
            format="systemd",
            files=(file,),
            left_out=(),
            needs=suite.needs,
            next_steps=_steps(["hostwright.service"], options, needs=bool(suite.needs)),
        )
    why = {
        server.name: "It speaks MCP on its stdin only; the daemon's unit (no names) runs it."
        if server.command
        else "It runs elsewhere; there is nothing to start."
        for server in suite.servers
        if server.distribution is None
    }
    carried, left_out = split(suite, why)
    files = tuple(
        File(path=f"{unit_name(server)}.service", text=_single(server, suite, options))
        for server in carried
    )
    needs = any(server.needs for server in carried)
    return Export(
        format="systemd",
        files=files,
        left_out=left_out,
        needs=tuple(need for server in carried for need in server.needs),
        next_steps=_steps([file.path for file in files], options, needs=needs),
    )


def unit_name(server: Server) -> str:
    """`hostwright-NAME`."""
    return f"hostwright-{server.name}"


def quote(word: str) -> str:
    """One word of a command line or assignment: no specifier, no variable, no separator in it."""
    escaped = word.replace("\\", "\\\\").replace('"', '\\"').replace("%", "%%")
    escaped = escaped.replace("\n", "\\n").replace("\t", "\\t")
    return escaped if re.fullmatch(r"[\w@%+=:,./-]+", escaped) else f'"{escaped}"'


def _argument(word: str) -> str:
    return quote(word).replace("$", "$$")


def _daemon(suite: Suite, options: Options) -> str:
    system = not options.user
    unit = [
        HEADER.format(name="hostwright"),
        "[Unit]",
        "Description=Hostwright: MCP servers behind one gateway",
        *(["Wants=network-online.target", "After=network-online.target"] if system else []),
        "StartLimitIntervalSec=60",
        "StartLimitBurst=5",
        "",
        "[Service]",
        "# Told when every listener is open. A loop that hangs gives no sign of life: it is ended.",
        "Type=notify",
        "NotifyAccess=main",
        "WatchdogSec=30",
        f"ExecStart={_argument(str(suite.program))} up",
        f"ExecReload={_argument(str(suite.program))} reload",
        "# `hostwright down` ends with 0 and stays down.",
        "Restart=on-failure",
        "RestartSec=1",
        "TimeoutStartSec=60",
        "TimeoutStopSec=45",
        "# The daemon ends its servers itself; what is left after that is killed. They run below",
        "# its own cgroup, where it sets their limits.",
        "KillMode=mixed",
        "Delegate=yes",
        "# A server that is killed for its memory is restarted; it is no reason for all to end.",
        "OOMPolicy=continue",
        "# What manifests refer to as ${NAME}, one NAME=value per line; 0600. Need not exist.",
        f"EnvironmentFile=-{_environment_file(suite, options)}",
        *_environment(suite.folders),
        *(_places() if system and not suite.folders else []),
        *([_vault()] if system else []),
    ]
    return _finish(unit, suite, options)


def _single(server: Server, suite: Suite, options: Options) -> str:
    if server.distribution is None:
        raise TypeError("only servers of ours listen by themselves")
    name = unit_name(server)
    program = suite.program.with_name(server.distribution.script)
    listen = f"--http {_argument(options.http)}" if options.http else f"--socket %t/{name}/mcp.sock"
    plain = {one.key: one.template for one in server.env if not one.needs}
    unit = [
        HEADER.format(name=name),
        "[Unit]",
        f"Description=Hostwright server {server.name} by itself (MCP over HTTP at /mcp)",
        "",
        "[Service]",
        "Type=exec",
        f"ExecStart={_argument(str(program))} {listen}",
        "Restart=on-failure",
        "RestartSec=1",
        "TimeoutStopSec=20",
        "KillMode=mixed",
        *(
            _places(name)
            if not options.user and not suite.folders
            else [f"RuntimeDirectory={name}", "RuntimeDirectoryMode=0700"]
        ),
        f"EnvironmentFile=-{_environment_file(suite, options)}",
        *_environment({**suite.folders, **plain}),
        *([_vault()] if not options.user else []),
    ]
    return _finish(unit, suite, options)


def _finish(unit: list[str], suite: Suite, options: Options) -> str:
    home = "read-only" if suite.in_a_home else "yes"
    hardening = _STRICT.format(home=home) if options.strict else _OPEN
    if options.strict and suite.folders:
        places = " ".join(quote(f"-{path}") for path in suite.folders.values())
        hardening += f"ReadWritePaths={places}\n"
    if options.user and options.strict:
        hardening = "# Of a user's manager, which may not close off more.\nNoNewPrivileges=yes\n"
    target = "default.target" if options.user else "multi-user.target"
    body = "\n".join(unit)
    return f"{body}\n\n{_COMMON}{hardening}\n[Install]\nWantedBy={target}\n"


def _places(*runtime: str) -> list[str]:
    """The folders that we would make ourselves, made by systemd with the same modes."""
    return [
        "StateDirectory=hostwright",
        "StateDirectoryMode=0700",
        "ConfigurationDirectory=hostwright",
        "ConfigurationDirectoryMode=0700",
        f"RuntimeDirectory={' '.join(('hostwright', *runtime))}",
        "RuntimeDirectoryMode=0700",
        "# Another unit of ours may be using it.",
        "RuntimeDirectoryPreserve=yes",
    ]


def _vault() -> str:
    return (
        "# The vault's key, if there is one: systemd-creds encrypt - "
        f"/etc/credstore.encrypted/{VAULT_CREDENTIAL}\n"
        f"LoadCredentialEncrypted={VAULT_CREDENTIAL}"
    )


def _environment_file(suite: Suite, options: Options) -> str:
    if folder := suite.folders.get("HOSTWRIGHT_CONFIG_DIR"):
        return f"{folder.replace('%', '%%')}/environment"
    return "%E/hostwright/environment" if options.user else "/etc/hostwright/environment"


def _environment(variables: dict[str, str]) -> list[str]:
    return [f"Environment={quote(f'{name}={value}')}" for name, value in variables.items()]


def _steps(units: list[str], options: Options, *, needs: bool) -> tuple[str, ...]:
    names = " ".join(unit.removesuffix(".service") for unit in units)
    if options.user:
        where, systemctl = "~/.config/systemd/user", "systemctl --user"
        environment = "~/.config/hostwright/environment"
    else:
        where, systemctl = "/etc/systemd/system", "systemctl"
        environment = "/etc/hostwright/environment"
    fill = [f"Write the variables above into {environment} (NAME=value; chmod 600)."]
    return (
        *(fill if needs else []),
        f"Put {' '.join(units)} into {where} (--out writes it there).",
        f"{systemctl} daemon-reload && {systemctl} enable --now {names}",
        *(["loginctl enable-linger, so that it runs without a login."] if options.user else []),
    )
