"""Who is shown which page: the probes for everybody, the rest for who may know it."""

from __future__ import annotations

import asyncio
import ssl
import sys
import time
from collections.abc import AsyncIterator
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from http import HTTPStatus
from pathlib import Path
from typing import Any

import pytest
import trustme

import rio
from rio.cli.program import main
from rio.errors import BadAddress, ConfigurationError
from rio.security.credentials import write_key
from rio.storage.http import HttpMembershipStorage
from rio.web import listener
from rio.web.guard import Guard
from rio.web.listener import Answer, Request
from tests.security.test_security_file import write
from tests.server.harness import until

TOKEN = "a-token-of-some-length"
OTHER = "another-token-of-length"
RIGHT = f"Bearer {TOKEN}".encode()
NODE = rio.Key.generate("node", "node")

# --- the rule


def ask(
    path: str = "/members", *, tokens: tuple[str, ...] = (), where: str = "", **more: Any
) -> int:
    """The status of the answer on an address that is local, insecure, or neither."""
    guard = Guard(
        lambda path: Answer(HTTPStatus.OK, path.encode()),
        lambda: [token.encode() for token in tokens],
        is_local="local" in where,
        is_insecure="insecure" in where,
    )
    request = Request(path, **{"host": "10.0.0.7:8080", **more})
    return guard(request).status.value


@pytest.mark.parametrize("path", ["/livez", "/readyz", "/livez/", "livez"])
@pytest.mark.parametrize("where", ["", "local", "insecure"])
def test_the_probes_are_for_everybody(path: str, where: str) -> None:
    assert ask(path, where=where, host="evil.example") == 200
    assert ask(path, where=where, tokens=(TOKEN,)) == 200


@pytest.mark.parametrize(
    "path", ["/", "/members", "/metrics", "/livez/x", "/livez/../members", "/x"]
)
def test_everything_else_is_not(path: str) -> None:
    assert ask(path) == 403
    assert ask(path, tokens=(TOKEN,), is_encrypted=True) == 401
    assert ask(path, where="insecure") == 200


@pytest.mark.parametrize(
    ("authorization", "status"),
    [
        (RIGHT, 200),
        (b"bearer  " + TOKEN.encode() + b" ", 200),
        (f"Bearer {OTHER}".encode(), 200),
        (b"", 401),
        (b"Bearer", 401),
        (b"Bearer ", 401),
        (RIGHT[:-1], 401),
        (RIGHT + b"x", 401),
        (RIGHT.replace(b"Bearer", b"Basic"), 401),
        (TOKEN.encode(), 401),
        (b"Bearer \xff\xfe", 401),
    ],
)
def test_a_token_opens_the_pages_where_it_is_encrypted(authorization: bytes, status: int) -> None:
    tokens = (TOKEN, OTHER)
    assert ask(tokens=tokens, is_encrypted=True, authorization=authorization) == status
    assert ask(tokens=tokens, where="local", authorization=authorization) == status
    assert ask(tokens=tokens, where="insecure", authorization=authorization) == status
    assert ask(tokens=tokens, authorization=authorization) == 403, "all could read it on its way"


@pytest.mark.parametrize(
    ("host", "status"),
    [
        ("127.0.0.1:8080", 200),
        ("localhost", 200),
        ("LocalHost:8080", 200),
        ("[::1]:8080", 200),
        ("10.0.0.7", 200),
        ("", 200),
        ("evil.example:8080", 421),
        ("127.0.0.1.evil.example", 421),
        ("localhost.evil.example", 421),
        ("[::1].evil.example", 421),
        ("[evil.example]", 421),
        ("127.0.0.1@evil.example", 421),
    ],
)
def test_a_name_that_leads_here_opens_nothing_to_a_browser(host: str, status: int) -> None:
    assert ask(where="local", host=host) == status
    assert ask(where="local insecure", host=host) == status
    assert ask(where="local", host=host, tokens=(TOKEN,), authorization=RIGHT) == 200


# --- what a security says of it


@pytest.mark.parametrize(
    ("tokens", "problem"),
    [
        ({"a": "short"}, "no text of at least 16"),
        ({"a": "with a space in the middle"}, "no text of at least 16"),
        ({"a": "header\r\ninjection-of-a-line"}, "no text of at least 16"),
        ({"a": 12345678901234567890}, "no text of at least 16"),
    ],
)
def test_a_token_that_cannot_be_used_is_refused(tokens: Any, problem: str) -> None:
    with pytest.raises(ConfigurationError, match=problem) as caught:
        rio.Security([NODE], encryption="none", http_tokens=tokens)
    assert str(tokens["a"]) not in str(caught.value)


def test_the_secret_of_a_key_is_no_token(tmp_path: Path) -> None:
    [line] = [line for line in write_key(NODE).splitlines() if line.startswith("secret")]
    text = f'{write_key(NODE)}[[http.tokens]]\nid = "a"\n{line.replace("secret", "token")}\n'
    with pytest.raises(ConfigurationError, match="'a' is the secret of a key"):
        rio.Security.from_file(write(tmp_path / "rio.toml", f'encryption = "none"\n{text}'))


@pytest.mark.parametrize(
    ("more", "problem"),
    [
        ('[[http.tokens]]\nid = "a"', "missing required field `token`"),
        (f'[[http.tokens]]\nid = "a"\ntoken = "{TOKEN}"\n' * 2, "two HTTP tokens have the same id"),
        ('[http]\ncertificate = "a.pem"', "certificate and private_key of HTTP go together"),
        ('[http]\ncertificate = "a.pem"\nprivate_key = "a.key"', "a.pem cannot be used for TLS"),
        ("[http]\nport = 80", "unknown field `port`"),
    ],
)
def test_a_file_that_cannot_be_used_says_why(tmp_path: Path, more: str, problem: str) -> None:
    text = f'encryption = "none"\n{write_key(NODE)}{more}\n'
    with pytest.raises(ConfigurationError, match=problem):
        rio.Security.from_file(write(tmp_path / "rio.toml", text))


def test_keygen_makes_a_token_for_a_collector(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    servers, collector = tmp_path / "servers.toml", tmp_path / "collector.token"
    write(servers, f'encryption = "none"\n{write_key(NODE)}')
    command = ["keygen", str(collector), "--http", "--id", "collector", "--also", str(servers)]
    assert main(command) == 0
    token = collector.read_text().strip()
    assert token not in capsys.readouterr().out
    assert rio.Security.from_file(servers)._trust.credentials.http_tokens == (token.encode(),)
    if sys.platform != "win32":
        assert (collector.stat().st_mode & 0o777, servers.stat().st_mode & 0o777) == (0o600, 0o600)
    assert main(command) == 1
    assert "has a file of its own" in capsys.readouterr().err
    other = ["keygen", str(tmp_path / "other"), *command[2:]]
    assert main(other) == 1
    assert "two HTTP tokens have the same id" in capsys.readouterr().err
    assert main(["keygen", str(tmp_path / "third"), "--http", "--also", str(servers)]) == 0
    assert main(["keygen", str(servers), "--id", "n2"]) == 0
    credentials = rio.Security.from_file(servers)._trust.credentials
    assert (len(credentials.http_tokens), len(credentials.keys)) == (2, 2)
    assert main(["keygen", str(tmp_path / "x"), "--http", "--role", "call"]) == 1


@pytest.mark.parametrize("http", [True, 8080, b"127.0.0.1:80", ("127.0.0.1", 80)])
def test_an_http_address_that_is_no_text_says_so(http: Any) -> None:
    with pytest.raises(BadAddress, match=r"an address is a text, HOST:PORT, got"):
        rio.Server(rio.Registry(), storage="memory://", http=http)


def test_a_port_of_many_digits_is_no_address() -> None:
    with pytest.raises(BadAddress, match="a number from 0 to 65535"):
        rio.Address.parse("127.0.0.1:" + "9" * 5000)


# --- a server over TLS


class Files:
    """A security file of a server, its token and its certificate, which change."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.authority = trustme.CA()
        self.authority.cert_pem.write_to_path(folder / "ca.pem")
        self.issue()
        self.write(TOKEN)

    def issue(self) -> None:
        own = self.authority.issue_cert("127.0.0.1", "localhost")
        own.private_key_pem.write_to_path(self.folder / "http.key")
        own.cert_chain_pems[0].write_to_path(self.folder / "http.pem")

    def write(self, token: str) -> None:
        text = 'encryption = "none"\n[http]\ncertificate = "http.pem"\nprivate_key = "http.key"\n'
        tokens = f'[[http.tokens]]\nid = "collector"\ntoken = "{token}"\n'
        write(self.folder / "rio.toml", text + write_key(NODE) + tokens)


@pytest.fixture
def files(tmp_path: Path) -> Files:
    return Files(tmp_path)


@pytest.fixture
async def server(files: Files) -> AsyncIterator[rio.Server]:
    async with rio.Server(
        rio.Registry(),
        storage="memory://",
        cluster="local",
        http="0.0.0.0:0",
        security=files.folder / "rio.toml",
    ) as server:
        yield server


class Collector:
    """A client that keeps its connection, as Prometheus does."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader, self._writer = reader, writer

    @classmethod
    async def connect(cls, server: rio.Server, files: Files) -> Collector:
        context = ssl.create_default_context(cafile=files.folder / "ca.pem")
        port = rio.Address.parse(server.http_address).port
        return cls(*await asyncio.open_connection("127.0.0.1", port, ssl=context))

    async def get(self, path: str, token: str) -> tuple[int, str]:
        """The status and the head of the answer."""
        lines = (f"GET {path} HTTP/1.1", "Host: x", f"Authorization: Bearer {token}", "", "")
        self._writer.write("\r\n".join(lines).encode())
        head = (await self._reader.readuntil(b"\r\n\r\n")).decode()
        [length] = [line[16:] for line in head.split("\r\n") if line.startswith("Content-Length")]
        await self._reader.readexactly(int(length))
        return int(head.split(" ")[1]), head

    @property
    def certificate(self) -> bytes:
        return self._writer.get_extra_info("ssl_object").getpeercert(True)

    async def close(self) -> None:
        self._writer.close()
        await self._writer.wait_closed()


@pytest.mark.both_loops
async def test_a_collector_reads_the_pages_with_a_token_over_tls(
    server: rio.Server, files: Files
) -> None:
    assert server.http_url == f"https://{server.http_address}"
    collector = await Collector.connect(server, files)
    for _ in range(2):
        assert (await collector.get("/members", TOKEN))[0] == 200
        assert (await collector.get("/livez", ""))[0] == 200
        status, head = await collector.get("/members", OTHER)
        assert (status, 'WWW-Authenticate: Bearer realm="rio"' in head) == (401, True)
    await collector.close()
    port = rio.Address.parse(server.http_address).port
    url = f"https://:{TOKEN}@127.0.0.1:{port}?ca={files.folder}/ca.pem"
    async with HttpMembershipStorage(url) as members:
        assert await members.snapshot() == server.members
        assert TOKEN not in repr(members)


@pytest.mark.both_loops
async def test_a_token_and_a_certificate_are_replaced_while_the_server_runs(
    server: rio.Server, files: Files
) -> None:
    collector = await Collector.connect(server, files)
    before = collector.certificate
    assert (await collector.get("/members", TOKEN))[0] == 200
    files.write(OTHER)
    while (await collector.get("/members", TOKEN))[0] == 200:  # noqa: ASYNC110
        await asyncio.sleep(0.01)
    assert (await collector.get("/members", TOKEN))[0] == 401
    assert (await collector.get("/members", OTHER))[0] == 200
    await collector.close()
    files.issue()
    certificates = [before]

    async def is_new() -> bool:
        other = await Collector.connect(server, files)
        certificates.append(other.certificate)
        assert (await other.get("/members", OTHER))[0] == 200
        await other.close()
        return certificates[-1] != before

    while not await is_new():  # noqa: ASYNC110
        await asyncio.sleep(0.01)


@pytest.mark.both_loops
async def test_unfinished_handshakes_of_many_lock_nobody_out(
    server: rio.Server, files: Files
) -> None:
    port = rio.Address.parse(server.http_address).port
    held = [await asyncio.open_connection("127.0.0.1", port) for _ in range(130)]
    for number, (_, writer) in enumerate(held):
        writer.write(b"\x16\x03\x01" if number % 2 else b"")
    for _ in range(5):
        collector = await Collector.connect(server, files)
        assert (await collector.get("/livez", ""))[0] == 200
        await collector.close()
    assert server._http is not None
    assert len(server._http._connections) <= listener.MAX_CONNECTIONS
    for _, writer in held:
        writer.transport.abort()


@pytest.mark.both_loops
@pytest.mark.parametrize("sent", [b"", b"\x16\x03\x01\x02\x00\x01", b"GET / HTTP/1.1\r\n\r\n"])
async def test_a_handshake_that_does_not_end_is_given_up(
    server: rio.Server, monkeypatch: pytest.MonkeyPatch, sent: bytes
) -> None:
    monkeypatch.setattr(listener, "REQUEST_TIMEOUT", 0.1)
    port = rio.Address.parse(server.http_address).port
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(sent)
    with suppress(ConnectionError):
        assert b"HTTP" not in await reader.read()
    assert server._http is not None
    connections = server._http._connections
    await until(lambda: not connections)
    writer.close()


@pytest.mark.both_loops
async def test_a_server_stops_while_clients_agree_on_tls_and_after(
    server: rio.Server, files: Files
) -> None:
    port = rio.Address.parse(server.http_address).port
    half = [await asyncio.open_connection("127.0.0.1", port) for _ in range(3)]
    collector = await Collector.connect(server, files)
    assert (await collector.get("/livez", ""))[0] == 200
    assert server._http is not None
    connections = server._http._connections
    await until(lambda: len(connections) == 4)
    await server.stop()
    assert not connections
    for _, writer in half:
        writer.transport.abort()
    with suppress(OSError):
        await collector.close()


async def test_what_is_not_encrypted_is_not_answered_over_tls(server: rio.Server) -> None:
    port = rio.Address.parse(server.http_address).port
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(b"GET /livez HTTP/1.0\r\n\r\n")
    assert b"HTTP" not in await reader.read()
    writer.close()


@pytest.mark.parametrize(
    ("url", "problem"),
    [
        (f"http://:{TOKEN}@db.example:80", "would send its token for all to read"),
        (f"http://:{TOKEN}@127.0.0.1:80,db.example:80", "would send its token for all to read"),
        (f"https://{TOKEN[:4]}:{TOKEN}@127.0.0.1", "names a user"),
        ("https://user@127.0.0.1", "names a user"),
        (f"https://:{TOKEN}%0d%0aX@127.0.0.1", "is no token"),
        ("https://127.0.0.1?ca=/nowhere.pem", "ca=/nowhere.pem of .* cannot be used"),
        ("https://127.0.0.1?cafe=x", "takes no option but ca=FILE"),
        ("http://127.0.0.1?ca=x", "takes no option but ca=FILE"),
    ],
)
def test_a_url_that_is_unsafe_or_not_understood_is_refused(url: str, problem: str) -> None:
    with pytest.raises(ConfigurationError, match=problem) as caught:
        HttpMembershipStorage(url)
    assert TOKEN not in str(caught.value)


def test_the_certificate_of_the_pages_expires_as_others_do(files: Files) -> None:
    path = files.folder / "rio.toml"
    [(file, end)] = rio.Security.from_file(path)._trust.credentials.expiries.items()
    assert (file, end > time.time()) == (files.folder / "http.pem", True)
    expired = files.authority.issue_cert(
        "localhost", not_after=datetime.now(UTC) - timedelta(days=1)
    )
    expired.private_key_pem.write_to_path(files.folder / "http.key")
    expired.cert_chain_pems[0].write_to_path(files.folder / "http.pem")
    with pytest.raises(ConfigurationError, match=r"http\.pem: certificate has expired"):
        rio.Security.from_file(path)
