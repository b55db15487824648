"""`hostwright up --reexec`: a daemon becomes its successor, and nobody who is connected notices."""

from __future__ import annotations

import json

from .daemon_harness import Installation


def test_a_line_client_goes_on(bare_home: Installation) -> None:
    bare_home.third_party("demo")
    with bare_home.up() as daemon:
        with daemon.wire("demo") as wire:
            assert wire.ask("tools/list")["result"]["tools"]
            done = bare_home.cli("up", "--reexec", "--json")
            state = json.loads(done.stdout)
            assert state["pid"] == daemon.process.pid
            assert state["replaced"] == 1
            assert wire.ask("tools/list")["result"]["tools"]
            assert wire.ask("tools/call", name="echo", arguments={})["result"]
