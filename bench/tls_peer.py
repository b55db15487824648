"""Both ends of a TLS GET, for `measure_sandbox.py`: standard library only, one may be sandboxed.

python tls_peer.py serve CERTIFICATE             prints its port, answers until stdin ends
python tls_peer.py fetch CA NAME PORT COUNT      prints milliseconds per GET, as JSON
"""

from __future__ import annotations

import json
import socket
import ssl
import sys
import threading
import time

ANSWER = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: close\r\n\r\nok"


def serve(certificate: str) -> None:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate)
    listener = socket.create_server(("127.0.0.1", 0), backlog=64)
    print(listener.getsockname()[1], flush=True)

    def loop() -> None:
        while True:
            plain, _ = listener.accept()
            try:
                with context.wrap_socket(plain, server_side=True) as link:
                    link.recv(4096)
                    link.sendall(ANSWER)
            except OSError:
                continue

    threading.Thread(target=loop, daemon=True).start()
    sys.stdin.read()


def fetch(ca: str, name: str, port: int, count: int) -> None:
    context = ssl.create_default_context(cafile=ca)
    request = f"GET / HTTP/1.1\r\nHost: {name}\r\nConnection: close\r\n\r\n".encode()
    took: list[float] = []
    for _ in range(count):
        began = time.perf_counter()
        plain = socket.create_connection((name if sys.argv[6:] else "127.0.0.1", port), timeout=10)
        with context.wrap_socket(plain, server_hostname=name) as link:
            link.sendall(request)
            answer = b""
            while data := link.recv(4096):
                answer += data
        took.append((time.perf_counter() - began) * 1000)
        if not answer.endswith(b"ok"):
            raise SystemExit("not the answer that was sent")
    print(json.dumps(took))


if __name__ == "__main__":
    if sys.argv[1] == "serve":
        serve(sys.argv[2])
    else:
        fetch(sys.argv[2], sys.argv[3], int(sys.argv[4]), int(sys.argv[5]))
