"""A daemon with the settings that the exports give it in a container."""

from __future__ import annotations

import httpx2

from hostwright.exporting import container

from .daemon_harness import Installation


def test_probes_and_names_work_and_strangers_do_not(bare_home: Installation) -> None:
    bare_home.third_party("gamma")
    given = container.environment(("hostwright", "hostwright.*"))
    # The folders and the port are the harness's own.
    lines = [
        f"{key} = {given[f'HOSTWRIGHT_GATEWAY__{key.upper()}']}"
        for key in ("require_token", "allowed_hosts")
    ]
    lines.append(f'host = "{given["HOSTWRIGHT_GATEWAY__HOST"]}"')
    bare_home.configure("autonomous", "\n".join(["[gateway]", *lines]))
    with bare_home.up() as daemon:
        assert daemon.url.startswith("http://0.0.0.0:")
        origin = daemon.origin.replace("0.0.0.0", "127.0.0.1")  # noqa: S104 - compared
        # As the kubelet asks, with the header that the probes carry.
        for path in ("/healthz", "/readyz"):
            answer = httpx2.get(f"{origin}{path}", headers={"Host": "localhost"})
            assert answer.status_code == 200
        for host, code in (
            ("hostwright:18790", 401),
            ("hostwright.default.svc:18790", 401),
            ("evil.example.com", 421),
        ):
            answer = httpx2.post(f"{origin}/mcp", headers={"Host": host}, content=b"{}")
            assert (host, answer.status_code) == (host, code)
