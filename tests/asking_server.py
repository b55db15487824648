"""A server of the handshake era that asks its client: raw JSON-RPC lines, standard library only.

It remembers what its session was told, so two clients in one session are found out.
"""

from __future__ import annotations

import json
import os
import sys
import threading
import time
from pathlib import Path
from typing import Any

LOCK = threading.Lock()
ANSWERS: dict[str, threading.Event] = {}
ANSWERED: dict[str, dict[str, Any]] = {}
SESSION: dict[str, Any] = {"capabilities": {}, "calls": 0, "roots_changed": 0}
TOOLS = ("ask", "facts", "die", "wait")
SCHEMA = {"type": "object", "properties": {"name": {"type": "string"}}}


def say(message: dict[str, Any]) -> None:
    with LOCK:
        sys.stdout.write(json.dumps({"jsonrpc": "2.0", **message}) + "\n")
        sys.stdout.flush()


def ask(method: str, params: dict[str, Any]) -> dict[str, Any]:
    number = f"q{len(ANSWERS)}"
    ANSWERS[number] = threading.Event()
    say({"id": number, "method": method, "params": params})
    ANSWERS[number].wait(60)
    return ANSWERED.get(number, {})


def call(number: Any, name: str, given: dict[str, Any]) -> None:
    SESSION["calls"] += 1
    said: Any = None
    if name == "ask":
        said = ask("elicitation/create", {"message": "Who?", "requestedSchema": SCHEMA})
    elif name == "facts":
        said = {"pid": os.getpid(), **SESSION}
    elif name == "wait":
        Path(given["here"]).touch()
        while not Path(given["until"]).exists():
            time.sleep(0.02)
    elif name == "die":
        os._exit(3)
    text = json.dumps(said)
    say({"id": number, "result": {"content": [{"type": "text", "text": text}]}})


def main() -> None:
    for line in sys.stdin:
        message = json.loads(line)
        number, method = message.get("id"), message.get("method")
        params = message.get("params") or {}
        if method is None:
            ANSWERED[number] = message
            ANSWERS[number].set()
        elif method == "initialize":
            SESSION["capabilities"] = params["capabilities"]
            info = {"name": "asking", "version": "1"}
            result = {"protocolVersion": params["protocolVersion"], "serverInfo": info}
            say({"id": number, "result": {**result, "capabilities": {"tools": {}}}})
        elif method == "notifications/roots/list_changed":
            SESSION["roots_changed"] += 1
        elif method == "tools/list":
            tools = [{"name": name, "inputSchema": {"type": "object"}} for name in TOOLS]
            say({"id": number, "result": {"tools": tools}})
        elif method == "tools/call":
            work = (number, params["name"], params.get("arguments") or {})
            threading.Thread(target=call, args=work, daemon=True).start()
        elif method == "ping":
            say({"id": number, "result": {}})
        elif number is not None:
            say({"id": number, "error": {"code": -32601, "message": method}})


if __name__ == "__main__":
    main()
