"""A server of somebody else: raw JSON-RPC on stdin and stdout, standard library only.

Knows either era, and on request all the ways in which a server can be a nuisance: it dies, hangs,
writes garbage, answers with too much or with the wrong shape. `python third_party.py --help`.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import sys
import threading
import time
from collections.abc import Callable
from typing import Any

OBJECT = {"type": "object"}
LOCK = threading.Lock()
OPTIONS = argparse.Namespace()
EXTRA_TOOLS: list[dict[str, Any]] = []
SEEN: list[dict[str, Any]] = []


def say(message: dict[str, Any]) -> None:
    with LOCK:
        sys.stdout.write(json.dumps({"jsonrpc": "2.0", **message}) + "\n")
        sys.stdout.flush()


def raw(line: str) -> None:
    with LOCK:
        sys.stdout.write(line + "\n")
        sys.stdout.flush()


def text(words: str, **more: Any) -> dict[str, Any]:
    return {"content": [{"type": "text", "text": words}], **more}


def tool(name: str, **more: Any) -> dict[str, Any]:
    """A tool; one whose name says that it reads says so in its annotations too."""
    if name.startswith("read_"):
        more["annotations"] = {"readOnlyHint": True}
    return {"name": name, "description": f"{name} of {OPTIONS.name}", "inputSchema": OBJECT, **more}


def tools() -> list[Any]:
    many = [tool(f"many_{number:04}") for number in range(OPTIONS.many)]
    bad: list[Any] = [{"description": "no name"}, "no object", {"name": "no_schema"}]
    hints = {"annotations": {"idempotentHint": True}} if OPTIONS.idempotent else {}
    return [
        *(tool(name, **hints) for name in (*ACTS, *OPTIONS.tool)),
        *many,
        *(bad if OPTIONS.bad_entries else []),
        *EXTRA_TOOLS,
    ]


class Call:
    """One tools/call."""

    def __init__(self, number: Any, params: dict[str, Any]) -> None:
        self.number = number
        self.name = str(params["name"])
        self.given: dict[str, Any] = params.get("arguments") or {}
        self.meta = params.get("_meta") or {}
        self.token = self.meta.get("progressToken")

    def answer(self, words: str) -> None:
        say({"id": self.number, "result": text(words)})


def echo(call: Call) -> None:
    time.sleep(float(call.given.get("seconds", 0)))
    call.answer(f"{OPTIONS.name}.{call.name} {json.dumps(call.given)}")


def die(call: Call) -> None:
    print("dying as asked", file=sys.stderr, flush=True)
    os._exit(9)


def hang(call: Call) -> None:
    """No answer, ever; other calls are served."""


def deaf(call: Call) -> None:
    """Stop reading, so that the pipe fills up."""
    signal.pause()


def close_stdout(call: Call) -> None:
    os.close(1)


def garbage(call: Call) -> None:
    raw("INFO starting up [not json]")
    raw("")
    raw('{"jsonrpc": "2.0", "method": 7, "params": [1]}')
    raw('["a list"]')
    raw('{"jsonrpc":"2.0","method":"notifications/progress","params":{"progressToken":[]}}')
    raw('{"jsonrpc":"2.0","method":"notifications/progress","params":"text"}')
    raw('{"jsonrpc":"2.0","id":null,"error":"text"}')
    raw('{"jsonrpc":"2.0","id":123456789,"result":{"content":[]}}')
    raw("[" * 100_000)
    call.answer("after garbage")


def big(call: Call) -> None:
    call.answer("x" * int(call.given.get("bytes", 1_000_000)))


def endless(call: Call) -> None:
    """More than a line may have; the id stands first or last, as implementations differ."""
    result = text("x" * (17 << 20))
    if call.given.get("id_last"):
        raw(json.dumps({"result": result, "jsonrpc": "2.0", "id": call.number}))
    else:
        say({"id": call.number, "result": result})


def progress(call: Call) -> None:
    for step in range(int(call.given.get("steps", 3))):
        report = {"progress": step + 1, "total": 3, "message": f"s{step}"}
        params = {"progressToken": call.token, **report}
        say({"method": "notifications/progress", "params": params})
    odd = {"progressToken": call.token, "progress": "much", "total": {}, "message": []}
    say({"method": "notifications/progress", "params": odd})
    call.answer("progressed")


def wrong_error(call: Call) -> None:
    say({"id": call.number, "error": {"code": "E42", "message": ["odd"], "data": None}})


def no_result(call: Call) -> None:
    say({"id": call.number})


def bad_shape(call: Call) -> None:
    say({"id": call.number, "result": {"content": "not a list"}})


def seen(call: Call) -> None:
    call.answer(json.dumps(SEEN))


def meta(call: Call) -> None:
    call.answer(json.dumps(call.meta))


def grow(call: Call) -> None:
    EXTRA_TOOLS.append(tool(f"grown_{len(EXTRA_TOOLS)}"))
    say({"method": "notifications/tools/list_changed"})
    call.answer("grown")


def ask(call: Call) -> None:
    say({"id": 1, "method": "elicitation/create", "params": {"message": "?"}})
    say({"id": 2, "method": "ping"})
    call.answer("asked")


def pid(call: Call) -> None:
    call.answer(str(os.getpid()))


def env(call: Call) -> None:
    call.answer(json.dumps(dict(os.environ)))


def complain(call: Call) -> None:
    """On stderr, with everything that it was given."""
    print(f"cannot log in with {call.given} {dict(os.environ)}", file=sys.stderr, flush=True)
    call.answer("complained")


ACTS: dict[str, Callable[[Call], None]] = {
    function.__name__: function
    for function in (
        *(echo, die, hang, deaf, close_stdout, garbage, big, endless, progress),
        *(wrong_error, no_result, bad_shape, seen, meta, grow, ask, pid, env, complain),
    )
}


def capabilities() -> dict[str, Any]:
    return {
        **({} if OPTIONS.no_tools else {"tools": {"listChanged": True}}),
        **({"resources": {}, "prompts": {}} if OPTIONS.resources else {}),
    }


def initialize(params: dict[str, Any]) -> dict[str, Any]:
    return {
        "protocolVersion": params["protocolVersion"],
        "capabilities": capabilities(),
        "serverInfo": {"name": OPTIONS.name, "version": "1"},
    }


def discover(_: dict[str, Any]) -> dict[str, Any]:
    versions = ["2026-07-28"]
    return {
        "supportedVersions": versions,
        "capabilities": capabilities(),
        "resultType": "complete",
    }


def tools_page(params: dict[str, Any]) -> dict[str, Any]:
    every, size = tools(), OPTIONS.page
    start = int(params.get("cursor", "0"))
    more = {"nextCursor": str(start + size)} if start + size < len(every) else {}
    return {"tools": every[start : start + size], **more}


def read(params: dict[str, Any]) -> dict[str, Any] | None:
    if not params["uri"].endswith(("one", "two")):
        return None
    words = f"{OPTIONS.name} reads {params['uri']}"
    return {"contents": [{"uri": params["uri"], "text": words}]}


def greeting(_: dict[str, Any]) -> dict[str, Any]:
    content = {"type": "text", "text": f"hello from {OPTIONS.name}"}
    return {"messages": [{"role": "user", "content": content}]}


METHODS: dict[str, Callable[[dict[str, Any]], dict[str, Any] | None]] = {
    "tools/list": tools_page,
    "resources/list": lambda _: {"resources": [{"name": "note", "uri": "note://one"}]},
    "resources/templates/list": lambda _: {
        "resourceTemplates": [{"name": "note", "uriTemplate": "note://{name}"}]
    },
    "resources/read": read,
    "prompts/list": lambda _: {"prompts": [{"name": "hello"}]},
    "prompts/get": greeting,
}
ERAS: dict[str, dict[str, Callable[[dict[str, Any]], dict[str, Any] | None]]] = {
    "legacy": {"initialize": initialize, "ping": lambda _: {}},
    "modern": {"server/discover": discover},
}


def serve(message: dict[str, Any]) -> None:
    number, method, params = message["id"], message["method"], message.get("params") or {}
    if method == "tools/call":
        call = Call(number, params)
        act = ACTS.get(call.name, echo)
        if act is deaf:
            act(call)
        threading.Thread(target=act, args=(call,), daemon=True).start()
        return
    answer = {**METHODS, **ERAS[OPTIONS.era]}.get(method)
    result = answer(params) if answer else None
    if result is not None:
        say({"id": number, "result": result})
    elif method == "resources/read":
        say({"id": number, "error": {"code": -32002, "message": "no such resource"}})
    elif not OPTIONS.silent:
        say({"id": number, "error": {"code": -32601, "message": "Method not found"}})


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--name", default="third")
    parser.add_argument("--era", choices=("legacy", "modern"), default="legacy")
    parser.add_argument("--tool", action="append", default=[], help="one more tool, an echo")
    parser.add_argument("--many", type=int, default=0, help="so many more tools")
    parser.add_argument("--page", type=int, default=10_000, help="tools per page")
    parser.add_argument("--bad-entries", action="store_true", help="list what are no tools, too")
    parser.add_argument("--resources", action="store_true", help="have resources and prompts")
    parser.add_argument("--no-tools", action="store_true")
    parser.add_argument("--idempotent", action="store_true", help="say so of every tool")
    parser.add_argument("--crash-on-start", action="store_true")
    parser.add_argument("--slow-start", type=float, default=0.0, help="seconds")
    parser.add_argument("--silent", action="store_true", help="ignore unknown methods")
    parser.parse_args(namespace=OPTIONS)
    if OPTIONS.crash_on_start:
        print("cannot find my licence file", file=sys.stderr)
        sys.exit(3)
    time.sleep(OPTIONS.slow_start)
    for line in sys.stdin:
        message = json.loads(line)
        SEEN.append({"method": message.get("method"), "params": message.get("params") or {}})
        if "id" in message and "method" in message:
            serve(message)


if __name__ == "__main__":
    main()
