"""Attempts on the network. World: tcp_port, udp_port, stream_path, datagram_path, abstract,
allowed, marker."""

# pyright: basic
from __future__ import annotations

import ctypes
import os
import socket
import struct

from attempt import attempt, libc, world  # pyright: ignore[reportMissingImports]

PAYLOAD = b"escape"


def connect(family, address):
    with socket.socket(family, socket.SOCK_STREAM) as link:
        link.settimeout(2)
        link.connect(address)
        link.sendall(PAYLOAD)
        return link.recv(100)


@attempt("anyone")
def connect_to_the_hosts_loopback():
    return connect(socket.AF_INET, ("127.0.0.1", world("tcp_port")))


@attempt("anyone")
def connect_to_loopback_as_a_mapped_address():
    return connect(socket.AF_INET6, ("::ffff:127.0.0.1", world("tcp_port")))


@attempt("anyone")
def connect_to_loopback_as_zero():
    return connect(socket.AF_INET, ("0.0.0.0", world("tcp_port")))


@attempt("anyone")
def connect_to_loopback_in_short():
    return connect(socket.AF_INET, ("127.1", world("tcp_port")))


@attempt()
def connect_past_the_gate():
    """Every address is local here, so a port without a listener of the gate's leads nowhere."""
    for port in (22, 25, 53, 3306, 8080):
        try:
            return connect(socket.AF_INET, ("192.0.2.1", port))
        except OSError:
            continue
    return None


@attempt()
def send_a_datagram_to_the_host():
    """Nothing arrives: the world's socket is read afterwards."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as link:
        link.sendto(PAYLOAD, ("127.0.0.1", world("udp_port")))
        link.settimeout(1)
        return link.recv(100)


@attempt("anyone")
def connect_to_a_socket_in_a_shown_folder():
    return connect(socket.AF_UNIX, world("stream_path"))


@attempt("anyone")
def send_to_a_socket_through_a_pair():
    """A datagram pair needs no socket(2), and can be sent anywhere."""
    one, _ = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
    one.sendto(PAYLOAD, world("datagram_path"))
    return "sent"


@attempt("anyone")
def connect_to_an_abstract_socket():
    return connect(socket.AF_UNIX, "\0" + world("abstract"))


@attempt("root")
def open_a_raw_socket():
    socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_ICMP).close()
    return "opened"


@attempt("root")
def open_a_packet_socket():
    socket.socket(17, socket.SOCK_RAW, 0).close()
    return "opened"


@attempt("anyone")
def open_a_netlink_socket():
    socket.socket(16, socket.SOCK_RAW, 0).close()
    return "opened"


@attempt()
def open_a_virtual_machine_socket():
    socket.socket(40, socket.SOCK_STREAM).close()
    return "opened"


@attempt()
def ask_a_name_server_elsewhere():
    """Whatever address is asked, the answer comes from here and knows only allowed names."""
    question = struct.pack(">HHHHHH", 7, 0x0100, 1, 0, 0, 0)
    question += b"\x06secret\x06tunnel\x07example\x00" + struct.pack(">HH", 1, 1)
    for server in ("8.8.8.8", "127.0.0.53", "169.254.169.254"):
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as link:
            link.settimeout(1)
            link.sendto(question, (server, 53))
            answer = link.recv(512)
        if answer[3] & 0xF != 3 or struct.unpack_from(">H", answer, 6)[0]:
            return answer
    return None


@attempt()
def tunnel_through_names():
    """Long names under an allowed one would reach its owner, if anybody outside were asked."""
    for name in ("64617461.%s" % world("allowed"), "a" * 60 + ".tunnel.example"):
        try:
            return socket.getaddrinfo(name, 443)
        except socket.gaierror:
            continue
    return None


def http(address, request):
    with socket.socket(socket.AF_INET6 if ":" in address else socket.AF_INET) as link:
        link.settimeout(3)
        link.connect((address, 80))
        link.sendall(request)
        answer = b""
        while part := link.recv(4096):
            answer += part
    return None if answer.startswith(b"HTTP/1.1 403") or not answer else answer


def metadata(address, host=None):
    head = "GET /latest/meta-data/ HTTP/1.1\r\nHost: %s\r\n\r\n" % (host or address)
    return http(address, head.encode())


@attempt()
def metadata_by_its_address():
    return metadata("169.254.169.254")


@attempt()
def metadata_as_one_number():
    return metadata("169.254.169.254", "2852039166")


@attempt()
def metadata_in_hexadecimal():
    return metadata("169.254.169.254", "0xa9fea9fe")


@attempt()
def metadata_in_octal():
    return metadata("169.254.169.254", "0251.0376.0251.0376")


@attempt()
def metadata_in_three_parts():
    return metadata("169.254.169.254", "169.254.43518")


@attempt()
def metadata_as_a_mapped_address():
    return metadata("::ffff:169.254.169.254", "[::ffff:169.254.169.254]")


@attempt()
def metadata_through_a_translator():
    return metadata("64:ff9b::a9fe:a9fe", "[64:ff9b::a9fe:a9fe]")


@attempt()
def metadata_of_the_sixth_version():
    return metadata("fd00:ec2::254", "[fd00:ec2::254]")


@attempt()
def metadata_by_a_name_that_leads_there():
    return http("127.1.0.1", b"GET / HTTP/1.1\r\nHost: metadata.example\r\n\r\n")


@attempt()
def private_network_by_a_name_that_leads_there():
    return http("127.1.0.1", b"GET / HTTP/1.1\r\nHost: private.example\r\n\r\n")


@attempt()
def loopback_by_a_name_that_is_bound_anew():
    return http("127.1.0.1", b"GET / HTTP/1.1\r\nHost: rebind.example\r\n\r\n")


def to_allowed(request):
    """What the allowed server was sent is looked at afterwards; here only what it answered."""
    return http("127.1.0.1", request.replace(b"HOST", world("allowed").encode()))


@attempt()
def host_of_another():
    return to_allowed(b"GET / HTTP/1.1\r\nHost: evil.example\r\n\r\n")


@attempt()
def two_hosts():
    return to_allowed(b"GET / HTTP/1.1\r\nHost: HOST\r\nHost: evil.example\r\n\r\n")


@attempt()
def host_with_a_user_before_it():
    return to_allowed(b"GET / HTTP/1.1\r\nHost: HOST@evil.example\r\n\r\n")


@attempt()
def host_that_only_ends_alike():
    return to_allowed(b"GET / HTTP/1.1\r\nHost: evil-HOST\r\n\r\n")


@attempt()
def request_for_a_proxy():
    return to_allowed(b"GET http://evil.example/ HTTP/1.1\r\nHost: HOST\r\n\r\n")


@attempt()
def tunnel_by_connect():
    return to_allowed(b"CONNECT evil.example:443 HTTP/1.1\r\nHost: HOST\r\n\r\n")


@attempt()
def change_of_protocol():
    return to_allowed(
        b"GET / HTTP/1.1\r\nHost: HOST\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\r\n"
    )


@attempt()
def two_lengths():
    return to_allowed(
        b"POST / HTTP/1.1\r\nHost: HOST\r\nContent-Length: 4\r\nTransfer-Encoding: chunked\r\n\r\n"
        b"0\r\n\r\nGET /smuggled HTTP/1.1\r\nHost: evil.example\r\n\r\n"
    )


@attempt()
def second_request_behind_the_first():
    """Answered once at most, and the second never arrives (looked at afterwards)."""
    answer = to_allowed(
        b"GET /first HTTP/1.1\r\nHost: HOST\r\n\r\n"
        b"GET /smuggled HTTP/1.1\r\nHost: evil.example\r\n\r\n"
    )
    return answer if answer and answer.count(b"HTTP/1.1 200") > 1 else None


@attempt()
def header_split_in_the_target():
    return to_allowed(b"GET /a\rX-Injected:\x20yes HTTP/1.1\r\nHost: HOST\r\n\r\n")


@attempt()
def follow_a_redirect_to_metadata():
    answer = to_allowed(b"GET /redirect HTTP/1.1\r\nHost: HOST\r\n\r\n") or b""
    if b"Location: http://169.254.169.254/" not in answer:
        return "the redirect itself did not come: %r" % answer
    return metadata("169.254.169.254")


def hello(*names, extra=b""):
    """A ClientHello with these server names, one extension each."""
    extensions = b""
    for name in names:
        entry = b"\0" + struct.pack(">H", len(name)) + name
        listed = struct.pack(">H", len(entry)) + entry
        extensions += struct.pack(">HH", 0, len(listed)) + listed
    extensions += extra
    body = b"\3\3" + bytes(32) + b"\0" + b"\0\2\x13\1" + b"\1\0"
    body += struct.pack(">H", len(extensions)) + extensions
    message = b"\1" + len(body).to_bytes(3, "big") + body
    return b"\x16\3\1" + struct.pack(">H", len(message)) + message


def tls(data):
    with socket.socket() as link:
        link.settimeout(3)
        link.connect(("127.1.0.1", 443))
        link.sendall(data)
        return link.recv(4096)


@attempt()
def server_name_of_another():
    return tls(hello(b"evil.example"))


@attempt()
def no_server_name():
    return tls(hello())


@attempt()
def two_server_names():
    return tls(hello(world("allowed").encode(), b"evil.example"))


@attempt()
def two_names_in_one_list():
    allowed = world("allowed").encode()
    entries = b"".join(b"\0" + struct.pack(">H", len(n)) + n for n in (allowed, b"evil.example"))
    listed = struct.pack(">H", len(entries)) + entries
    return tls(hello(extra=struct.pack(">HH", 0, len(listed)) + listed))


@attempt()
def encrypted_server_name():
    return tls(hello(world("allowed").encode(), extra=b"\xfe\x0d\0\1\0"))


@attempt()
def server_name_that_is_an_address():
    return tls(hello(b"169.254.169.254"))


@attempt()
def server_name_with_a_nul():
    return tls(hello(world("allowed").encode() + b"\0.evil.example"))


@attempt()
def no_tls_at_all():
    return tls(b"SSH-2.0-escape\r\n")


@attempt()
def hello_in_crumbs_with_another_name():
    """Every byte in a record of its own; the name is put together before it is judged."""
    whole = hello(b"evil.example")[5:]
    return tls(b"".join(b"\x16\3\1\0\1" + bytes([byte]) for byte in whole))


@attempt()
def address_that_the_gate_listens_on():
    """The gate's own loop runs outside; its listeners must lead nowhere but into its judgement."""
    return connect(socket.AF_INET, ("127.0.0.1", 443))


@attempt()
def bring_up_a_device():
    request = struct.pack("16sH14s", b"lo", 0x1 | 0x100, b"")
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as link:
        buffer = ctypes.create_string_buffer(request, 40)
        if libc.ioctl(link.fileno(), 0x8914, buffer):  # SIOCSIFFLAGS
            raise OSError(ctypes.get_errno(), "SIOCSIFFLAGS")
    return "changed"


@attempt()
def find_a_credential_that_only_the_gate_holds():
    """The allowed server echoes what it was sent; the gate's credential must not be findable."""
    found = [n for n in ("/run/secrets", "/run/user") if os.path.exists(n) and os.listdir(n)]
    texts = [" ".join(os.environ.values())]
    for name in os.listdir("/proc"):
        if name.isdigit():
            for file in ("environ", "cmdline"):
                try:
                    with open("/proc/%s/%s" % (name, file), "rb") as data:
                        texts.append(data.read().decode("latin-1"))
                except OSError:
                    continue
    return found or [t for t in texts if world("marker") in t] or None
