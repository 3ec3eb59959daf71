"""The membership as the nodes themselves show it over HTTP: for clients that are not to know the
database, and may only read.
"""

from __future__ import annotations

import asyncio
from http import HTTPStatus
from typing import NoReturn
from urllib.parse import SplitResult, urlsplit

from rio.contracts.listing import decode_members
from rio.contracts.membership import (
    MembershipSnapshot,
    MembershipStorage,
    MemberStatus,
    Registered,
    StatusChange,
    Vote,
)
from rio.errors import ConfigurationError, StorageClosed, StorageUnavailable

__all__ = ["HttpMembershipStorage"]

MAX_HEAD = 1 << 14
MAX_BODY = 1 << 22
"""Bytes of an answer; a full cluster of 1024 members takes a tenth of it."""


class HttpMembershipStorage(MembershipStorage):
    """Reads ``/members`` from the first node that answers. What would write is refused: it is for
    :class:`rio.Client`.

    ``url``: ``http://host:port``, with several hosts as ``http://one:80,two:80``; or ``https://``.
    ``timeout``: seconds for each of them.

    :raises ConfigurationError: the URL names no server.
    """

    def __init__(self, url: str, /, *, timeout: float = 2.0) -> None:
        parts = urlsplit(url)
        self._bases = [
            _checked(url, parts._replace(netloc=netloc)) for netloc in parts.netloc.split(",")
        ]
        self._url = url
        self._timeout = timeout
        self._open = False

    async def prepare(self) -> None:
        self._open = True

    async def close(self) -> None:
        self._open = False

    async def snapshot(self) -> MembershipSnapshot:
        if not self._open:
            raise StorageClosed(
                f"{type(self).__name__} is not open: call prepare() first, or use it in 'async with'"
            )
        problems = []
        for base in list(self._bases):
            try:
                snapshot = await self._read(base)
            except (OSError, EOFError, ValueError, asyncio.LimitOverrunError) as error:
                problems.append(f"{base.netloc}: {str(error) or 'no answer in time'}")
            else:
                self._bases.remove(base)
                self._bases.insert(0, base)
                return snapshot
        raise StorageUnavailable(f"no node showed its members: {'; '.join(problems)}")

    async def _read(self, base: SplitResult) -> MembershipSnapshot:
        async with asyncio.timeout(self._timeout):
            return decode_members(await _get(base))

    async def register(self, address: str, metadata: bytes = b"") -> Registered:
        self._refuse()

    async def renew(self, generation: int) -> bool:
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

    async def purge(self, generation: int) -> bool:
        self._refuse()

    def _refuse(self) -> NoReturn:
        raise ConfigurationError(
            f"{self._url} only shows the members, to clients: a server needs the storage itself"
        )


def _checked(url: str, parts: SplitResult) -> SplitResult:
    try:
        usable = parts.scheme in ("http", "https") and parts.hostname and parts.port != 0
    except ValueError:
        usable = False
    if not usable or parts.username or parts.query:
        raise ConfigurationError(
            f"{url!r} names no HTTP server: write http://host:port, several hosts with commas between them"
        )
    return parts


async def _get(base: SplitResult) -> bytes:
    """The body of ``/members``.

    :raises OSError: there is no connection.
    :raises EOFError: it broke.
    :raises ValueError: the answer is none, or too long.
    """
    encrypted = base.scheme == "https"
    port = base.port or (443 if encrypted else 80)
    reader, writer = await asyncio.open_connection(
        base.hostname, port, ssl=encrypted or None, limit=MAX_HEAD
    )
    try:
        # HTTP/1.0 is enough, and keeps proxies from answering in chunks
        writer.write(
            f"GET {base.path.rstrip('/')}/members HTTP/1.0\r\nHost: {base.netloc}\r\nAccept: application/json\r\n\r\n".encode()
        )
        status, *headers = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
        _check_status(status)
        return await reader.readexactly(_length(headers))
    finally:
        writer.transport.abort()


def _check_status(line: str) -> None:
    words = line.split(" ", 2)
    if len(words) < 2 or not words[0].startswith("HTTP/1.") or words[1] != str(HTTPStatus.OK.value):
        raise ValueError(f"it answered {line[:80]!r}")


def _length(headers: list[str]) -> int:
    for header in headers:
        name, _, value = header.partition(":")
        if name.strip().lower() == "content-length" and value.strip().isdigit():
            length = int(value)
            if length > MAX_BODY:
                raise ValueError(f"it answered with {length} bytes, more than any membership has")
            return length
    raise ValueError("it did not say how long its answer is")
