"""What Compose and Kubernetes share: the image, and how the daemon runs inside it.

In a container the daemon runs as an ordinary user with a read-only file system: its servers cannot
look after the machine around it, which is the point of a container. The gateway listens on every
address there, so clients need a token whatever the configuration says.
"""

from __future__ import annotations

import json

from hostwright.exporting.model import File, Options, Suite

USER = 10001
PORT = 18790
STATE = "/var/lib/hostwright"
RUNTIME = "/run/hostwright"
MANIFESTS = "/etc/hostwright/manifests"
# Kept out of the volume's own root, which belongs to whoever made the volume.
STATE_FOLDER = f"{STATE}/state"


def image(suite: Suite, options: Options) -> str:
    """The name of the image."""
    return options.image or f"hostwright:{suite.version}"


def environment(hosts: tuple[str, ...]) -> dict[str, str]:
    """What tells the daemon that it runs in a container; `hosts` are the names it is called by."""
    return {
        "HOSTWRIGHT_CONFIG_DIR": "/etc/hostwright",
        "HOSTWRIGHT_STATE_DIR": STATE_FOLDER,
        "HOSTWRIGHT_RUNTIME_DIR": RUNTIME,
        "HOSTWRIGHT_GATEWAY__HOST": "0.0.0.0",  # noqa: S104 - of a container's own network
        "HOSTWRIGHT_GATEWAY__PORT": str(PORT),
        "HOSTWRIGHT_GATEWAY__REQUIRE_TOKEN": "true",
        "HOSTWRIGHT_GATEWAY__ALLOWED_HOSTS": json.dumps(hosts),
        "HOME": "/tmp",  # noqa: S108 - npx and uvx want a place to unpack to
    }


def manifests(suite: Suite) -> dict[str, str]:
    """File name → text: those to run, and those of the suite that were not asked for, disabled."""
    chosen = {f"{server.name}.toml": server.manifest for server in suite.servers}
    off = {
        f"{name}.toml": f'name = "{name}"\nentry_point = "{name}"\nenabled = false\n'
        for name in suite.not_wanted
    }
    return {**chosen, **off}


def dockerfile(suite: Suite) -> File:
    """An image with the supervisor and the servers of ours that are asked for."""
    wanted = {
        one.name: one.version
        for one in (server.distribution for server in suite.servers)
        if one is not None
    }
    packages = " ".join(
        f'"{name}=={version}"' for name, version in {"hostwright": suite.version, **wanted}.items()
    )
    programs = {server.command[0].rpartition("/")[2] for server in suite.servers if server.command}
    more = ""
    if programs & {"npx", "node", "npm"}:
        more += (
            "# For the servers that are started with npx or node.\n"
            "# hadolint ignore=DL3008\n"
            "RUN apt-get update \\\n"
            "    && apt-get install --yes --no-install-recommends nodejs npm \\\n"
            "    && rm -rf /var/lib/apt/lists/*\n"
        )
    if programs & {"uvx", "uv"}:
        more += (
            "# For the servers that are started with uvx.\n"
            "# hadolint ignore=DL3013\n"
            "RUN pip install --no-cache-dir uv\n"
        )
    text = f"""\
# Made by `hostwright export`. The wheels of `make dist` are used if they lie in ./dist; else PyPI.
FROM python:3.13-slim
{more}RUN --mount=type=bind,source=.,target=/build \\
    mkdir -p /tmp/dist \\
    && find /build/dist -name '*.whl' -exec cp {{}} /tmp/dist \\; \\
    ; pip install --no-cache-dir --find-links /tmp/dist {packages} \\
    && rm -rf /tmp/dist \\
    && useradd --uid {USER} --no-create-home --shell /usr/sbin/nologin hostwright \\
    && install -d -o {USER} -g {USER} -m 0700 /etc/hostwright {STATE} {RUNTIME}
USER {USER}
EXPOSE {PORT}
ENTRYPOINT ["hostwright"]
CMD ["up"]
"""
    return File(path="Dockerfile", text=text)


def cannot(suite: Suite) -> dict[str, str]:
    """Servers that would not run in an image that has only what we put into it."""
    known = {"npx", "node", "npm", "uvx", "uv", "python", "python3"}
    why: dict[str, str] = {}
    for server in suite.servers:
        if server.command and server.command[0].rpartition("/")[2] not in known:
            why[server.name] = (
                f"The image has no program {server.command[0]!r}; only python, npx and uvx."
            )
        elif server.command and any(word.startswith("/") for word in server.command[1:]):
            why[server.name] = "Its command names a path of this machine, which no image has."
        elif server.cwd:
            why[server.name] = f"It runs in a folder of this machine ({server.cwd})."
    return why
