"""The membership as the servers show it over HTTP: for clients, which only read it and need not
know the database.
"""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Sequence
from http import HTTPStatus
from typing import NoReturn
from urllib.parse import SplitResult, parse_qsl, unquote

from rio.contracts.listing import decode_members
from rio.contracts.membership import (
    MembershipSnapshot,
    MembershipStorage,
    MemberStatus,
    Registered,
    Renewal,
    StatusChange,
    Vote,
)
from rio.errors import ConfigurationError, StorageUnavailable
from rio.identity import Address
from rio.storage._openable import Openable
from rio.storage._url_form import show_url, split_url

__all__ = ["HttpMembershipStorage"]

OK, NOT_READY = HTTPStatus.OK, HTTPStatus.SERVICE_UNAVAILABLE
MAX_HEAD = 1 << 14
"""Bytes of the status line and the headers of an answer."""
MAX_BODY = 1 << 22
"""Bytes of an answer. A full cluster of 1024 members takes a tenth of it."""


class HttpMembershipStorage(Openable, MembershipStorage):
    """Reads ``/members`` from the first server that answers and is ready. If none is ready, the
    newest that they know counts: one that joins knows nobody yet, and one that is fenced may know
    what is not true any more.

    It is for :class:`rio.Client`: every method that would write raises
    :class:`rio.errors.ConfigurationError`.

    ``url``: ``http://host:port`` or ``https://host:port``; several hosts as
    ``http://one:80,two:80``. A token that the servers ask for stands before them,
    ``https://:TOKEN@host:port``, and the authorities that are trusted, if they are not those of the
    system, behind them: ``?ca=ca.pem``. ``timeout``: seconds that each host has to answer.

    :raises ConfigurationError: the URL names no server, has a token that all could read on its way,
        or the file of the authorities cannot be used.
    """

    def __init__(self, url: str, /, *, timeout: float = 2.0) -> None:
        parts = split_url(url, "http://host:port")
        self._shown = show_url(url)
        login, _, hosts = parts.netloc.rpartition("@")
        self._bases = [
            _check_base(url, parts._replace(netloc=netloc, query="")) for netloc in hosts.split(",")
        ]
        self._token = self._read_token(login)
        self._tls = self._read_tls(parts)
        self._timeout = timeout

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self._shown!r})"

    async def snapshot(self) -> MembershipSnapshot:
        self._check_open()
        problems, second_best = [], []
        for base in list(self._bases):
            try:
                is_ready, snapshot = await self._read(base)
            except (OSError, EOFError, ValueError, asyncio.LimitOverrunError) as error:
                problems.append(f"{base.netloc}: {str(error) or 'no answer in time'}")
            else:
                if is_ready:
                    self._bases.remove(base)
                    self._bases.insert(0, base)
                    return snapshot
                problems.append(f"{base.netloc}: it is not ready")
                if snapshot.members:
                    second_best.append(snapshot)
        if second_best:
            return max(second_best, key=lambda snapshot: snapshot.version)
        raise StorageUnavailable(f"no server showed its members: {'; '.join(problems)}")

    def _read_token(self, login: str) -> str:
        """:raises ConfigurationError: it stands in the wrong place, or all could read it."""
        user, _, token = login.partition(":")
        if user:
            raise ConfigurationError(
                f"{self._shown!r} names a user: write https://:TOKEN@host:port"
            )
        if token and not all(map(_is_safe, self._bases)):
            raise ConfigurationError(
                f"{self._shown!r} would send its token for all to read: write https://"
            )
        token = unquote(token)
        if not (token.isascii() and token.isprintable()):
            raise ConfigurationError(f"what stands before the hosts of {self._shown!r} is no token")
        return token

    def _read_tls(self, parts: SplitResult) -> ssl.SSLContext | None:
        """:raises ConfigurationError: an option is not known, or its file cannot be used."""
        options = dict(parse_qsl(parts.query, keep_blank_values=True))
        ca = options.pop("ca", None)
        if options or (ca is not None and parts.scheme != "https"):
            raise ConfigurationError(f"{self._shown!r} takes no option but ca=FILE, with https://")
        if parts.scheme != "https":
            return None
        try:
            return ssl.create_default_context(cafile=ca)
        except OSError as error:  # an SSLError is one
            raise ConfigurationError(
                f"ca={ca} of {self._shown!r} cannot be used: {error}"
            ) from error

    async def _read(self, base: SplitResult) -> tuple[bool, MembershipSnapshot]:
        """Whether a server is ready, and what it shows."""
        async with asyncio.timeout(self._timeout):
            status, body = await _get(base, self._token, self._tls)
        return status == OK, decode_members(body)

    async def register(
        self, address: str, metadata: bytes = b"", manifest: bytes = b""
    ) -> Registered:
        self._refuse()

    async def renew(self, generation: int) -> Renewal | None:
        self._refuse()

    async def set_status(
        self,
        generation: int,
        expected: MemberStatus,
        status: MemberStatus,
        *,
        expected_counter: int | None = None,
    ) -> StatusChange:
        self._refuse()

    async def vote(self, generation: int, vote: Vote) -> StatusChange:
        self._refuse()

    async def set_manifest(self, generation: int, manifest: bytes) -> bool:
        self._refuse()

    async def read_manifests(self, generations: Sequence[int]) -> dict[int, bytes]:
        """Servers do not show manifests."""
        self._check_open()
        return {}

    async def set_settings(self, settings: bytes, version: int) -> bool:
        self._refuse()

    async def change_cluster_id(self, cluster_id: str) -> MembershipSnapshot:
        self._refuse()

    async def purge(self, generation: int) -> bool:
        self._refuse()

    def _refuse(self) -> NoReturn:
        raise ConfigurationError(
            f"{self._shown} only shows the members, to clients: a server needs the storage itself"
        )


def _check_base(url: str, parts: SplitResult) -> SplitResult:
    """:raises ConfigurationError: the parts of one host name no HTTP server."""
    try:
        usable = parts.scheme in ("http", "https") and parts.hostname and parts.port != 0
    except ValueError:
        usable = False
    if not usable:
        raise ConfigurationError(
            f"{show_url(url)!r} names no HTTP server: write http://host:port,"
            " several hosts with commas between them"
        )
    return parts


def _is_safe(base: SplitResult) -> bool:
    """Whether nobody else can read what is sent there."""
    return base.scheme == "https" or Address(base.hostname or "", 0).is_loopback


async def _get(base: SplitResult, token: str, tls: ssl.SSLContext | None) -> tuple[int, bytes]:
    """The status and the body of ``/members``.

    :raises OSError: there is no connection.
    :raises EOFError: the connection broke.
    :raises ValueError: the answer is not HTTP with a body of a known length, or it is too long.
    """
    port = base.port or (80 if tls is None else 443)
    reader, writer = await asyncio.open_connection(base.hostname, port, ssl=tls, limit=MAX_HEAD)
    try:
        writer.write(_request(base, token))
        status, *headers = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
        code = _read_status(status)
        return code, await reader.readexactly(_length(headers))
    finally:
        writer.transport.abort()


def _request(base: SplitResult, token: str) -> bytes:
    """HTTP/1.0 is enough, and keeps proxies from answering in chunks."""
    head = [
        f"GET {base.path.rstrip('/')}/members HTTP/1.0",
        f"Host: {base.netloc}",
        "Accept: application/json",
        *([f"Authorization: Bearer {token}"] if token else []),
    ]
    return "\r\n".join([*head, "", ""]).encode()


def _read_status(line: str) -> int:
    """:raises ValueError: the answer is no HTTP, and neither OK nor that of a server not ready."""
    words = line.split(" ", 2)
    known = {str(status.value): status.value for status in (OK, NOT_READY)}
    if len(words) < 2 or not words[0].startswith("HTTP/1.") or words[1] not in known:
        raise ValueError(f"it answered {line[:80]!r}")
    return known[words[1]]


def _length(headers: list[str]) -> int:
    """:raises ValueError: no header says it, or it is more than ``MAX_BODY``."""
    for header in headers:
        name, _, value = header.partition(":")
        if name.strip().lower() == "content-length" and value.strip().isdigit():
            length = int(value)
            if length > MAX_BODY:
                raise ValueError(f"it answered with {length} bytes, more than any membership has")
            return length
    raise ValueError("it did not say how long its answer is")
