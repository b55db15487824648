"""Which program a process is: from the file that it runs, never from parts of names.

Names that a process gives itself (comm, argv[0], titles) prove nothing, so the kind comes from the
real path of the executable (`/proc/PID/exe`), looked up whole in a table. For an interpreter the
script or module decides, found by reading its command line the way the interpreter itself does.
What is in no table is "unknown".
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath

UNKNOWN = "unknown"

# Basename of the executable → kind.
PROGRAMS = {
    "apache2": "apache",
    "httpd": "apache",
    "beam.smp": "erlang",
    "caddy": "caddy",
    "chronyd": "chrony",
    "clickhouse": "clickhouse",
    "clickhouse-server": "clickhouse",
    "consul": "consul",
    "containerd": "containerd",
    "coredns": "coredns",
    "cupsd": "cups",
    "dnsmasq": "dnsmasq",
    "docker-proxy": "docker-proxy",
    "dockerd": "docker",
    "dovecot": "dovecot",
    "envoy": "envoy",
    "etcd": "etcd",
    "exim4": "exim",
    "gitea": "gitea",
    "grafana": "grafana",
    "grafana-server": "grafana",
    "haproxy": "haproxy",
    "influxd": "influxdb",
    "k3s": "k3s",
    "kube-apiserver": "kubernetes",
    "kubelet": "kubernetes",
    "lighttpd": "lighttpd",
    "loki": "loki",
    "mariadbd": "mariadb",
    "memcached": "memcached",
    "minio": "minio",
    "mongod": "mongodb",
    "mosquitto": "mosquitto",
    "mysqld": "mysql",
    "named": "bind",
    "nats-server": "nats",
    "nginx": "nginx",
    "node_exporter": "prometheus-node-exporter",
    "ollama": "ollama",
    "postgres": "postgres",
    "postmaster": "postgres",
    "prometheus": "prometheus",
    "redis-server": "redis",
    "rpcbind": "rpcbind",
    "rsyslogd": "rsyslog",
    "smbd": "samba",
    "squid": "squid",
    "sshd": "openssh",
    "sshd-session": "openssh",
    "systemd": "systemd",
    "systemd-networkd": "systemd",
    "systemd-resolved": "systemd",
    "tailscaled": "tailscale",
    "traefik": "traefik",
    "unbound": "unbound",
    "valkey-server": "valkey",
    "varnishd": "varnish",
    "vault": "vault",
}

# Scripts (basename of the file) and modules (full dotted name) that are programs of their own.
_PYTHON_PROGRAMS = {
    "airflow": "airflow",
    "celery": "celery",
    "daphne": "daphne",
    "flask": "flask",
    "granian": "granian",
    "gunicorn": "gunicorn",
    "http.server": "python-http-server",
    "hypercorn": "hypercorn",
    "jupyter-lab": "jupyter",
    "jupyter-notebook": "jupyter",
    "jupyter_server": "jupyter",
    "jupyterlab": "jupyter",
    "streamlit": "streamlit",
    "supervisord": "supervisord",
    "uvicorn": "uvicorn",
    "vllm": "vllm",
}
_NODE_PROGRAMS = {"next": "next", "pm2": "pm2", "vite": "vite", "verdaccio": "verdaccio"}
_RUBY_PROGRAMS = {"puma": "puma", "rails": "rails", "unicorn": "unicorn"}
_JAVA_PROGRAMS = {
    "kafka.Kafka": "kafka",
    "org.apache.catalina.startup.Bootstrap": "tomcat",
    "org.apache.cassandra.service.CassandraDaemon": "cassandra",
    "org.apache.zookeeper.server.quorum.QuorumPeerMain": "zookeeper",
    "org.elasticsearch.bootstrap.Elasticsearch": "elasticsearch",
    "org.elasticsearch.server/org.elasticsearch.bootstrap.Elasticsearch": "elasticsearch",
    "org.opensearch.bootstrap.OpenSearch": "opensearch",
    "jenkins.war": "jenkins",
}


@dataclass(frozen=True)
class Interpreter:
    """How one interpreter reads its command line. Options in `with_value` take the next argument
    (or what is glued to them); those in `module` name what runs; those in `inline` bring the
    program text itself; `subcommands` stand before the script."""

    kind: str
    executable: re.Pattern[str]
    with_value: frozenset[str] = frozenset()
    module: frozenset[str] = frozenset()
    inline: frozenset[str] = frozenset()
    subcommands: frozenset[str] = frozenset()
    known: tuple[tuple[str, str], ...] = ()


def _interpreter(
    kind: str,
    executable: str,
    *,
    with_value: str = "",
    module: str = "",
    inline: str = "",
    subcommands: str = "",
    known: dict[str, str] | None = None,
) -> Interpreter:
    return Interpreter(
        kind=kind,
        executable=re.compile(executable),
        with_value=frozenset(with_value.split()),
        module=frozenset(module.split()),
        inline=frozenset(inline.split()),
        subcommands=frozenset(subcommands.split()),
        known=tuple((known or {}).items()),
    )


INTERPRETERS = (
    _interpreter(
        "python",
        r"python(\d+(\.\d+)?t?)?|pypy(\d+(\.\d+)?)?",
        with_value="-W -X --check-hash-based-pycs",
        module="-m",
        inline="-c",
        known=_PYTHON_PROGRAMS,
    ),
    _interpreter(
        "node",
        r"node|nodejs",
        with_value="-r --require --import --loader --experimental-loader -C --conditions "
        "--env-file --input-type --icu-data-dir --openssl-config --title",
        inline="-e --eval -p --print -pe",
        known=_NODE_PROGRAMS,
    ),
    _interpreter("bun", r"bun", subcommands="run", inline="-e --eval", known=_NODE_PROGRAMS),
    _interpreter("deno", r"deno", subcommands="run serve", with_value="-c --config --import-map"),
    _interpreter(
        "ruby",
        r"ruby(\d+(\.\d+)?)?",
        with_value="-I -r -C -E",
        inline="-e",
        known=_RUBY_PROGRAMS,
    ),
    _interpreter("perl", r"perl(5(\.\d+)*)?", with_value="-I -M -m", inline="-e -E"),
    _interpreter("php", r"php(\d(\.\d+)?)?", with_value="-c -d -z -S -t", inline="-r -R -B -E"),
    _interpreter("php-fpm", r"php-fpm(\d(\.\d+)?)?"),
    _interpreter(
        "java",
        r"java",
        with_value="-cp -classpath --class-path -p --module-path --add-modules --add-opens "
        "--add-exports --add-reads",
        module="-jar -m --module",
        known=_JAVA_PROGRAMS,
    ),
    _interpreter("shell", r"bash|dash|sh|zsh|ksh|fish", with_value="-o -O +o +O", inline="-c"),
)


@dataclass(frozen=True)
class Identity:
    """What a process is. `runtime` is the interpreter's kind, or None for a program of its own;
    `program` the script, module or jar that the interpreter runs."""

    kind: str
    runtime: str | None = None
    program: str | None = None


def real_path(executable: str) -> str:
    """The path without the mark that the kernel adds when the file was replaced or removed."""
    return executable.removesuffix(" (deleted)")


def identify(executable: str | None, arguments: Sequence[str]) -> Identity:
    """What runs, given the target of /proc/PID/exe (None: not readable) and the arguments."""
    if executable is None:
        return Identity(UNKNOWN)
    name = PurePosixPath(real_path(executable)).name
    if name in PROGRAMS:
        return Identity(PROGRAMS[name])
    for interpreter in INTERPRETERS:
        if interpreter.executable.fullmatch(name):
            program = find_program(interpreter, arguments)
            kind = _known_program(interpreter, program) or interpreter.kind
            return Identity(kind, interpreter.kind, program)
    return Identity(UNKNOWN)


def find_program(interpreter: Interpreter, arguments: Sequence[str]) -> str | None:
    """The script or module among the arguments; None for inline code, standard input or a title
    that was written over the arguments."""
    rest = iter(arguments[1:])
    subcommands = interpreter.subcommands
    for argument in rest:
        if argument in interpreter.module:
            return next(rest, None)
        if argument in interpreter.inline or argument == "-":
            return None
        if argument in interpreter.with_value:
            next(rest, None)
        elif _glued_module(interpreter, argument):
            return argument[2:]
        elif argument in subcommands:
            subcommands = frozenset()
        elif argument == "--":
            return next(rest, None)
        elif not argument.startswith(("-", "+")):
            return argument
    return None


def _glued_module(interpreter: Interpreter, argument: str) -> bool:
    """`-mhttp.server`: only single-letter options of Python take their value glued on."""
    return interpreter.kind == "python" and len(argument) > 2 and argument[:2] in interpreter.module


def _known_program(interpreter: Interpreter, program: str | None) -> str | None:
    if program is None:
        return None
    table = dict(interpreter.known)
    return table.get(program) or table.get(PurePosixPath(program).name)
