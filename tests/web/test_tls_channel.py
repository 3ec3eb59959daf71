"""TLS in memory: what the two sides say arrives, in whatever pieces, and nothing else does."""

from __future__ import annotations

import asyncio
import socket
import ssl
from contextlib import suppress
from http import HTTPStatus
from pathlib import Path

import pytest
import trustme

from rio.identity import Address
from rio.security.tls import PagesTls
from rio.web.listener import Answer, HttpListener
from rio.web.tls_channel import TlsChannel


class Side:
    """The client's end, in memory too."""

    def __init__(self, context: ssl.SSLContext) -> None:
        self.incoming, self.outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        self.tls = context.wrap_bio(self.incoming, self.outgoing, server_hostname="localhost")

    def agree(self, server: TlsChannel, piece: int) -> None:
        for _ in range(3):
            with suppress(ssl.SSLWantReadError):
                self.tls.do_handshake()
            assert self.say(server, piece) == b""

    def say(self, server: TlsChannel, piece: int) -> bytes:
        """Send what is to be sent. Returns what the server understands of it."""
        sent, said = self.outgoing.read(), b""
        for start in range(0, len(sent), piece):
            said += server.decrypt(sent[start : start + piece])
            self.incoming.write(server.take())
        return said


@pytest.fixture
def contexts(tmp_path: Path) -> tuple[ssl.SSLContext, ssl.SSLContext]:
    authority = trustme.CA()
    own = authority.issue_cert("localhost")
    own.private_key_pem.write_to_path(tmp_path / "key")
    own.cert_chain_pems[0].write_to_path(tmp_path / "certificate")
    client = ssl.create_default_context()
    authority.configure_trust(client)
    return PagesTls(tmp_path / "certificate", tmp_path / "key").server, client


Contexts = tuple[ssl.SSLContext, ssl.SSLContext]


@pytest.mark.parametrize("piece", [1, 7, 1 << 20])
def test_what_each_side_says_arrives_in_whatever_pieces(contexts: Contexts, piece: int) -> None:
    server, client = TlsChannel(contexts[0]), Side(contexts[1])
    client.agree(server, piece)
    client.tls.write(b"question" * 5000)
    assert client.say(server, piece) == b"question" * 5000
    client.incoming.write(server.encrypt(b"answer" * 50_000))
    said = b""
    with suppress(ssl.SSLWantReadError):
        while chunk := client.tls.read(1 << 16):
            said += chunk
    assert said == b"answer" * 50_000
    with suppress(ssl.SSLWantReadError):
        client.tls.unwrap()
    assert (client.say(server, piece), server.has_ended) == (b"", True)


@pytest.mark.parametrize(
    "sent", [b"GET / HTTP/1.1\r\n\r\n", b"\x16\x03\x01\x00\x05abcde", b"\xff" * 99]
)
def test_what_is_no_tls_is_refused(contexts: Contexts, sent: bytes) -> None:
    server = TlsChannel(contexts[0])
    with pytest.raises(ssl.SSLError):
        server.decrypt(sent)


def test_what_somebody_changes_on_the_way_is_refused(contexts: Contexts) -> None:
    server, client = TlsChannel(contexts[0]), Side(contexts[1])
    client.agree(server, 1 << 20)
    client.tls.write(b"question")
    sent = bytearray(client.outgoing.read())
    sent[-1] ^= 1
    with pytest.raises(ssl.SSLError):
        server.decrypt(bytes(sent))
    assert server.take(), "the client is told"


def read_all(address: Address, context: ssl.SSLContext, requests: bytes) -> bytes:
    """What a server answers until it closes. Streams of uvloop lose the end of what comes last."""
    plain = socket.create_connection(tuple(address))
    with context.wrap_socket(plain, server_hostname="localhost") as client:
        client.sendall(requests)
        return b"".join(iter(lambda: client.recv(1 << 16), b""))


@pytest.mark.both_loops
async def test_large_answers_and_many_requests_pass_through_tls(contexts: Contexts) -> None:
    http = HttpListener(
        lambda request: Answer(HTTPStatus.OK, request.path.encode() * 100_000), lambda: contexts[0]
    )
    address = await http.start(Address("127.0.0.1", 0))
    requests = b"".join(b"GET /%02d HTTP/1.1\r\nHost: x\r\n\r\n" % n for n in range(20))
    requests += b"GET /last HTTP/1.0\r\n\r\n"
    said = await asyncio.to_thread(read_all, address, contexts[1], requests)
    bodies = [answer.partition(b"\r\n\r\n")[2] for answer in said.split(b"HTTP/1.1 200 OK")[1:]]
    expected = [*(b"/%02d" % number for number in range(20)), b"/last"]
    assert len(bodies) == len(expected)
    assert all(body == each * 100_000 for body, each in zip(bodies, expected, strict=True))
    await http.close()
