"""A very small HTTP server: it answers ``GET`` and ``HEAD``, one request on each connection, and
reads no bodies.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from http import HTTPStatus
from typing import NamedTuple
from urllib.parse import unquote

from rio.errors import BindFailed
from rio.identity import Address
from rio.logs import Logger

logger = Logger("rio.web")

MAX_HEAD = 8192
"""Bytes of a request line and its headers, at most."""
MAX_CONNECTIONS = 64
"""Clients that are served at a time. A further client takes the place of one that has its answer
and stays; if there is none, it is disconnected.
"""
TIMEOUT = 5.0
"""Seconds that a client has to send its request and to take the answer."""


class Answer(NamedTuple):
    """What a page answers."""

    status: HTTPStatus
    body: bytes
    content_type: str = "text/plain; charset=utf-8"


Pages = Callable[[str], Answer]
"""The answer to a path. The path has no query, and its percent escapes are decoded."""


class HttpListener:
    """Serves pages on an address. Nothing that a client sends can end or block it."""

    def __init__(self, pages: Pages) -> None:
        self._pages = pages
        self.server: asyncio.Server | None = None
        self._connections: dict[asyncio.StreamWriter, bool] = {}
        """The clients, the oldest first, and whether they were answered."""

    async def start(self, address: Address) -> Address:
        """Listen, and return the address. Port 0 takes a free port.

        :raises BindFailed: the address is taken, or it is not one of this machine.
        """
        try:
            self.server = await asyncio.start_server(
                self._serve, address.host, address.port, limit=MAX_HEAD
            )
        except OSError as error:
            reason = error.strerror or error
            raise BindFailed(
                f"cannot serve HTTP on {address}: {reason};"
                " choose another address, or port 0 for a free one"
            ) from error
        return Address(address.host, self.server.sockets[0].getsockname()[1])

    async def close(self) -> None:
        """Stop listening, and drop the clients that are connected. Idempotent."""
        if self.server is not None:
            self.server.close()
            for writer in self._connections:
                writer.transport.abort()
            await self.server.wait_closed()
            self.server = None

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if self.server is None or not self.server.is_serving():
            writer.transport.abort()  # the loop had accepted it when the listener was closed
            return
        has_place = len(self._connections) < MAX_CONNECTIONS or self._drop_answered()
        self._connections[writer] = False
        try:
            if has_place:
                async with asyncio.timeout(TIMEOUT):
                    await self._converse(reader, writer)
        except OSError as error:  # a TimeoutError is one
            logger.debug("an HTTP client went away: %r", error)
        finally:
            writer.transport.abort()
            self._connections.pop(writer, None)

    def _drop_answered(self) -> bool:
        """Disconnect the oldest client that has its answer. Returns whether there was one."""
        for writer, answered in self._connections.items():
            if answered and not writer.transport.get_write_buffer_size():
                writer.transport.abort()
                del self._connections[writer]
                return True
        return False

    async def _converse(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            head = await reader.readuntil(b"\r\n\r\n")
            answer = self._answer(head.partition(b"\r\n")[0])
        except asyncio.LimitOverrunError:
            text = f"the head of a request may have {MAX_HEAD} bytes"
            answer = _render(_error(HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE, text))
        except asyncio.IncompleteReadError:
            return  # the client went away without a request
        writer.write(answer)
        writer.write_eof()
        self._connections[writer] = True
        # If the connection were closed with something unread, the client would lose the answer.
        while await reader.read(MAX_HEAD):
            pass

    def _answer(self, request_line: bytes) -> bytes:
        words = request_line.decode("latin-1").split(" ")
        if len(words) != 3 or not words[1].startswith("/") or not words[2].startswith("HTTP/1."):
            return _render(_error(HTTPStatus.BAD_REQUEST, "this is no HTTP/1.1 request"))
        method, url, _ = words
        if method not in ("GET", "HEAD"):
            return _render(_error(HTTPStatus.METHOD_NOT_ALLOWED, "only GET and HEAD are answered"))
        return _render(self._page(unquote(url.partition("?")[0])), with_body=method == "GET")

    def _page(self, path: str) -> Answer:
        try:
            return self._pages(path)
        except Exception:
            logger.exception("the page %r failed", path)
            text = "this page failed: see the log of the server"
            return _error(HTTPStatus.INTERNAL_SERVER_ERROR, text)


def _error(status: HTTPStatus, text: str) -> Answer:
    return Answer(status, f"{text}\n".encode())


def _render(answer: Answer, *, with_body: bool = True) -> bytes:
    head = [
        f"HTTP/1.1 {answer.status.value} {answer.status.phrase}",
        f"Content-Type: {answer.content_type}",
        f"Content-Length: {len(answer.body)}",
        "Allow: GET, HEAD",
        "Cache-Control: no-store",
        "X-Content-Type-Options: nosniff",
        "Connection: close",
    ]
    return "\r\n".join([*head, "", ""]).encode() + (answer.body if with_body else b"")
