"""A Compose project: the daemon in one container, with its image beside it.

Format: https://github.com/compose-spec/compose-spec. Checked against that specification's schema,
and with `docker compose config` where there is one.
"""

from __future__ import annotations

from typing import Any

import yaml

from hostwright.exporting import container
from hostwright.exporting.model import Export, File, Options, Suite, split

ENV_FILE = "hostwright.env"
HEADER = "# Made by `hostwright export compose`. Changes of your own: compose.override.yaml.\n"


def render(suite: Suite, options: Options) -> Export:
    """compose.yaml, Dockerfile, the manifests, and an example of the variables' file."""
    carried, left_out = split(suite, container.cannot(suite))
    suite = suite.model_copy(update={"servers": tuple(carried)})
    text = HEADER + yaml.safe_dump(_project(suite, options), sort_keys=False, width=100)
    files = [
        File(path="compose.yaml", text=text),
        container.dockerfile(suite),
        File(path=".dockerignore", text="*\n!dist\n"),
        *(
            File(path=f"manifests/{name}", text=manifest)
            for name, manifest in container.manifests(suite).items()
        ),
    ]
    if suite.needs:
        lines = [f"# {need.why}\n{need.name}={need.default or ''}\n" for need in suite.needs]
        files.append(File(path=f"{ENV_FILE}.example", text="".join(lines)))
    fill = f"cp {ENV_FILE}.example {ENV_FILE}; chmod 600 {ENV_FILE}; fill it in."
    return Export(
        format="compose",
        files=tuple(files),
        left_out=left_out,
        needs=suite.needs,
        next_steps=(
            *([fill] if suite.needs else []),
            "docker compose up --build --detach",
            "docker compose exec hostwright hostwright token NAME   # a client's bearer token",
        ),
    )


def _project(suite: Suite, options: Options) -> dict[str, Any]:
    ready = f"http://127.0.0.1:{container.PORT}/readyz"
    probe = f"import urllib.request as r; r.urlopen('{ready}', None, 4)"
    service: dict[str, Any] = {
        "build": ".",
        "image": container.image(suite, options),
        "init": True,
        "restart": "unless-stopped",
        "stop_grace_period": "45s",
        # On this machine's loopback only; put a reverse proxy with TLS before it for others.
        "ports": [f"127.0.0.1:{suite.port or container.PORT}:{container.PORT}"],
        "environment": container.environment(("hostwright",)),
        "volumes": [f"state:{container.STATE}", f"./manifests:{container.MANIFESTS}:ro"],
        "tmpfs": [
            f"{container.RUNTIME}:uid={container.USER},gid={container.USER},mode=0700",
            "/tmp:mode=1777",  # noqa: S108
        ],
        "read_only": True,
        "cap_drop": ["ALL"],
        "security_opt": ["no-new-privileges:true"],
        "healthcheck": {
            "test": ["CMD", "python", "-c", probe],
            "interval": "15s",
            "timeout": "5s",
            "retries": 3,
            "start_period": "60s",
        },
    }
    if suite.needs:
        service["env_file"] = [{"path": ENV_FILE, "required": True}]
    return {"name": "hostwright", "services": {"hostwright": service}, "volumes": {"state": {}}}
