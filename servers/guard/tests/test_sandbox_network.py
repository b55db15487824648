"""The gate through the front door: TLS and HTTP to a server of the test's, and nowhere else."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import datetime
import json
import ssl
from collections.abc import AsyncGenerator
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from pydantic import SecretStr

from hostwright_guard.sandbox.gate.gate import Gate
from hostwright_guard.sandbox.gate.names import parse_target
from hostwright_guard.sandbox.gate.rules import Allowance, Attempt, RefusedError, Rules
from hostwright_kit.ledger import Ledger
from hostwright_kit.runtime import LEDGER_FILE
from hostwright_kit.vault import open_vault

from .guard_world import World, call

PYTHON = "/usr/bin/python3"
FETCH = """
import ssl, sys, urllib.request
for url in sys.argv[2:]:
    try:
        context = ssl.create_default_context(cafile=sys.argv[1])
        print(urllib.request.urlopen(url, context=context, timeout=10).read().decode())
    except Exception as error:
        print(type(error).__name__, error)
"""


def certificate(folder: Path, *names: str) -> Path:
    """A key and a certificate for these names, in one file."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, names[0])])
    now = datetime.datetime.now(datetime.UTC)
    made = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=2))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName(n) for n in names]), False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), True)
        .sign(key, hashes.SHA256())
    )
    file = folder / "certificate.pem"
    file.write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )
        + made.public_bytes(serialization.Encoding.PEM)
    )
    (folder / "ca.pem").write_bytes(made.public_bytes(serialization.Encoding.PEM))
    return file


class Server:
    """A TLS server on loopback that says what it was asked."""

    def __init__(self, port: int) -> None:
        self.port = port
        self.heads: list[str] = []


@contextlib.asynccontextmanager
async def tls_server(file: Path) -> AsyncGenerator[Server]:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(file)

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError, asyncio.IncompleteReadError):
            head = (await reader.readuntil(b"\r\n\r\n")).decode()
            server.heads.append(head)
            body = b"x" * 300_000 if "/large" in head else b"hello from " + head.split()[1].encode()
            writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(body) + body)
            await writer.drain()
        writer.close()

    listener = await asyncio.start_server(answer, "127.0.0.1", 0, ssl=context)
    server = Server(listener.sockets[0].getsockname()[1])
    async with listener:
        yield server


@pytest.fixture
def world(tmp_path: Path) -> World:
    found = World(tmp_path)
    certificate(found.work, "one.example", "api.example", "free.example")
    found.configure(
        '[policy]\nprofile = "autonomous"\n'
        f'[guard.sandbox]\nca_file = "{found.work / "ca.pem"}"\n'
        "[guard.sandbox.hosts]\n"
        '"one.example" = "127.0.0.1"\n"api.example" = "127.0.0.1"\n"free.example" = "127.0.0.1"\n'
    )
    return found


async def test_a_program_that_knows_no_proxy_reaches_what_is_allowed(world: World) -> None:
    async with tls_server(world.work / "certificate.pem") as server, world.client() as client:
        one, free = (f"https://{n}.example:{server.port}/" for n in ("one", "free"))
        result = await call(
            client,
            "sandbox_exec",
            argv=[PYTHON, "-c", FETCH, str(world.work / "ca.pem"), f"{one}a", f"{free}b"],
            read_paths=[str(world.work / "ca.pem")],
            domains=[f"one.example:{server.port}"],
        )
    lines = result["stdout"]["head"].splitlines()
    assert lines[0] == "hello from /a"
    assert lines[1].startswith("URLError")
    assert [head.split()[1] for head in server.heads] == ["/a"]
    verdicts = [(one["target"], one["verdict"]) for one in result["network"]]
    assert (f"one.example:{server.port}", "allowed") in verdicts
    assert ("free.example", "refused") in verdicts
    received = [n["received_bytes"] for n in result["network"] if n["verdict"] == "allowed"]
    assert len(received) == 1 and received[0] > 500
    ledger = {event.type for event in world.events(type="egress.*")}
    assert ledger == {"egress.opened", "egress.allowed", "egress.refused"}


async def test_a_credential_of_the_gates_never_enters_the_sandbox(world: World) -> None:
    ledger = Ledger(world.state / LEDGER_FILE)
    vault = open_vault(world.state, ledger)
    vault.set("service-key", SecretStr("only-the-gate-knows"), servers=["guard"])
    vault.close()
    ledger.close()
    look = "; cat /proc/[0-9]*/environ /proc/[0-9]*/cmdline | tr '\\0' '\\n'; ls /run"
    fetch = f"{PYTHON} -c '{FETCH}' none http://api.example/x http://one.example/y{look}"
    async with tls_server(world.work / "certificate.pem") as server, world.client() as client:
        result = await call(
            client,
            "sandbox_exec",
            argv=["sh", "-c", fetch.replace("cafile=sys.argv[1]", "")],
            domains=["api.example"],
            inject=[{"domain": f"api.example:{server.port}", "entry": "service-key"}],
        )
    assert "hello from /x" in result["stdout"]["head"], result
    (head,) = server.heads
    assert "Authorization: Bearer only-the-gate-knows\r\n" in head
    assert "Host: api.example\r\n" in head
    assert "only-the-gate-knows" not in json.dumps(result)
    text = json.dumps([event.model_dump() for event in world.events()])
    assert "only-the-gate-knows" not in text and "secret.opened" in text


async def test_the_budget_of_a_token_ends_a_connection(world: World) -> None:
    async with tls_server(world.work / "certificate.pem") as server, world.client() as client:
        minted = await call(
            client,
            "capability_mint",
            grant={
                "domains": [f"one.example:{server.port}"],
                "read": [str(world.work / "ca.pem")],
                "requests": 2,
            },
            uses=5,
        )
        urls = [f"https://one.example:{server.port}/{n}" for n in range(4)]
        result = await call(
            client,
            "sandbox_exec",
            argv=[PYTHON, "-c", FETCH, str(world.work / "ca.pem"), *urls],
            token=minted["token"],
        )
        assert result["stdout"]["head"].count("hello from") == 2
        reasons = [one["reason"] for one in result["network"]]
        assert reasons.count("the budget of requests is used up") == 2
        (shown,) = (await call(client, "capability_list"))["capabilities"]
        assert shown["requests_left"] == 0


async def test_a_name_is_asked_for_once_and_what_was_vetted_is_dialled() -> None:
    """A resolver that changes its answer finds nobody who asks again."""
    asked: list[str] = []

    async def lookup(host: str, port: int) -> list[str]:
        asked.append(host)
        return ["10.0.0.1", "127.0.0.1"] if len(asked) == 1 else ["169.254.169.254"]

    async def record(attempt: Attempt) -> None:
        return None

    rules = Rules((parse_target("a.example"),), Allowance(9, 9))
    gate = Gate(rules, record, lookup=lookup)
    with pytest.raises(RefusedError, match="not public"):
        await gate._resolve("a.example", 443)
    assert asked == ["a.example"]

    async def mixed(host: str, port: int) -> list[str]:
        return ["10.0.0.1", "1.1.1.1", "::ffff:127.0.0.1", "169.254.169.254"]

    assert await Gate(rules, record, lookup=mixed)._resolve("a.example", 443) == ["1.1.1.1"]


async def test_a_server_that_repeats_the_credential_does_not_tell_it(world: World) -> None:
    """In headers, in the body, in base64; and the answer keeps its length."""
    ledger = Ledger(world.state / LEDGER_FILE)
    vault = open_vault(world.state, ledger)
    vault.set("api", SecretStr("only-the-gate-knows"), servers=["guard"])
    vault.close()
    ledger.close()
    told = b"only-the-gate-knows " + base64.b64encode(b"only-the-gate-knows")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(world.work / "certificate.pem")

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = await reader.readuntil(b"\r\n\r\n")
        assert b"Accept-Encoding: identity\r\n" in head and b"gzip" not in head
        writer.write(b"HTTP/1.1 200 OK\r\nX-Told: " + told + b"\r\n")
        writer.write(b"Content-Length: %d\r\n\r\n" % len(told) + told[:7])
        await writer.drain()
        writer.write(told[7:])
        await writer.drain()
        writer.close()

    script = (
        "import urllib.request as r; q = r.Request('http://api.example/', "
        "headers={'Accept-Encoding': 'gzip'}); a = r.urlopen(q); "
        "print(a.headers['X-Told'], a.read().decode())"
    )
    listener = await asyncio.start_server(answer, "127.0.0.1", 0, ssl=context)
    port = listener.sockets[0].getsockname()[1]
    async with listener, world.client() as client:
        result = await call(
            client,
            "sandbox_exec",
            argv=[PYTHON, "-c", script],
            domains=["api.example"],
            inject=[{"domain": f"api.example:{port}", "entry": "api"}],
        )
    masked = "*" * 19 + " " + "*" * 28
    assert result["stdout"]["head"] == f"{masked} {masked}\n", result


async def test_a_program_that_tries_for_ever_does_not_fill_the_ledger() -> None:
    kept: list[Attempt] = []

    async def record(attempt: Attempt) -> None:
        kept.append(attempt)

    rules = Rules((parse_target("a.example"),), Allowance(9, 9))
    gate = Gate(rules, record)
    for number in range(1_000):
        gate._note(Attempt("tls", f"{number}.example:443", "refused", "no"))
    await gate.close()
    assert len(kept) == 201
    assert (kept[-1].kind, kept[-1].target) == ("more", "800 more attempts")
    assert rules.omitted_attempts == 800
