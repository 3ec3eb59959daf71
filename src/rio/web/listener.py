"""Serves pages over HTTP. ``h11`` reads the requests; this file decides how many clients are served
and for how long.
"""

from __future__ import annotations

import asyncio
import math
import ssl
from collections import Counter
from collections.abc import Callable, Iterator
from http import HTTPStatus
from typing import NamedTuple, cast
from urllib.parse import unquote

import h11

from rio.errors import BindFailed
from rio.identity import Address
from rio.logs import Logger
from rio.transport.listener import Listener
from rio.web.tls_channel import TlsChannel

logger = Logger("rio.web")

MAX_HEAD = 8192
"""Bytes of a request line and its headers, at most."""
MAX_CONNECTIONS = 64
"""Clients that are connected at a time. A further one takes the place of the oldest one of the host
that has the most, so nobody locks others out, whatever he sends or does not send.
"""
BACKLOG = 100
"""Connections that the system holds until they are accepted: asyncio's own number."""
REQUEST_TIMEOUT = 5.0
"""Seconds that a client has to send a request, and to take an answer."""
IDLE_TIMEOUT = 150.0
"""Seconds between two requests on a connection, at most. Collectors ask once a minute or so."""
REPORT_INTERVAL = 60.0
"""Seconds between two lines of the log about pages that fail."""


class Request(NamedTuple):
    """What a client asks for."""

    path: str
    """Without the query, and its percent escapes are decoded."""
    host: str = ""
    """To whom it was sent: the header ``Host``."""
    authorization: bytes = b""
    """The header ``Authorization``."""
    is_encrypted: bool = False


class Answer(NamedTuple):
    """What a page answers."""

    status: HTTPStatus
    body: bytes
    content_type: str = "text/plain; charset=utf-8"


Pages = Callable[[Request], Answer]


def _no_tls() -> None: ...


class HttpListener:
    """Serves pages on an address. Nothing that a client sends can end or block it.

    ``tls``: what a further connection is encrypted with; ``None``: it is not.
    """

    def __init__(self, pages: Pages, tls: Callable[[], ssl.SSLContext | None] = _no_tls) -> None:
        self._pages = pages
        self.tls = tls
        # A connection counts before it is encrypted: a handshake may be as slow as a request.
        self._listener = Listener(lambda: _Connection(self), BACKLOG)
        self._connections: dict[_Connection, None] = {}
        """The clients, the oldest first."""
        self._all_gone = asyncio.Event()
        self._is_closed = False
        self._failures = 0
        self._report_at = -math.inf

    async def start(self, address: Address) -> Address:
        """Listen, and return the address. Port 0 takes a free port.

        :raises BindFailed: the address is taken, or it is not one of this machine.
        """
        try:
            bound = await self._listener.bind(address)
            await self._listener.start()
        except OSError as error:
            await self._listener.close()
            reason = error.strerror or error
            raise BindFailed(
                f"cannot serve HTTP on {address}: {reason};"
                " choose another address, or port 0 for a free one"
            ) from error
        return Address(address.host, bound.port)

    def numbers(self) -> Iterator[int]:
        """The descriptors of the listening sockets."""
        return self._listener.numbers()

    async def close(self) -> None:
        """Stop listening, and drop the clients that are connected. Idempotent."""
        self._is_closed = True
        await self._listener.close()
        while self._connections:
            self._all_gone.clear()
            for connection in self._connections:
                connection.abort()
            await self._all_gone.wait()

    # --- what a connection asks -------------------------------------------------------------------

    def admit(self, connection: _Connection) -> None:
        """Serve a client. Too many: the oldest one of the host that has the most has to go."""
        if self._is_closed:  # the loop had accepted it already
            connection.abort()
            return
        self._connections[connection] = None
        if len(self._connections) > MAX_CONNECTIONS:
            [(crowd, _)] = Counter(each.source for each in self._connections).most_common(1)
            oldest = next(each for each in self._connections if each.source == crowd)
            del self._connections[oldest]
            oldest.abort()

    def forget(self, connection: _Connection) -> None:
        self._connections.pop(connection, None)
        if not self._connections:
            self._all_gone.set()

    def answer(self, request: h11.Request, *, is_encrypted: bool) -> Answer:
        """What to answer to a request without a body."""
        if not request.target.startswith(b"/") or not request.http_version.startswith(b"1."):
            return _error(HTTPStatus.BAD_REQUEST, "this is no HTTP/1.1 request for a page")
        if request.method not in (b"GET", b"HEAD"):
            return _error(HTTPStatus.METHOD_NOT_ALLOWED, "only GET and HEAD are answered")
        headers = dict(request.headers)
        path = unquote(request.target.decode("latin-1").partition("?")[0])
        host = headers.get(b"host", b"").decode("latin-1")
        try:
            return self._pages(
                Request(path, host, headers.get(b"authorization", b""), is_encrypted)
            )
        except Exception as error:
            self._report(f"the page {path!r:.200} failed", error)
            text = "this page failed: see the log of the server"
            return _error(HTTPStatus.INTERNAL_SERVER_ERROR, text)

    def _report(self, what: str, error: BaseException | None) -> None:
        """Log it; but whoever asks a thousand times a second does not fill the log."""
        self._failures += 1
        now = asyncio.get_running_loop().time()
        if now >= self._report_at:
            self._report_at = now + REPORT_INTERVAL
            logger.error("%s (%d failures in all)", what, self._failures, exc_info=error)


class _Connection(asyncio.Protocol):
    """One client. It has one request answered in a turn of the loop, and the next one after it has
    taken the answer.
    """

    def __init__(self, owner: HttpListener) -> None:
        self._owner = owner
        # It is never given more than MAX_HEAD bytes, and so refuses what is not complete by then.
        self._http = h11.Connection(h11.SERVER, max_incomplete_event_size=MAX_HEAD - 1)
        self._unread = bytearray()
        """What the parser was not given yet."""
        self._transport: asyncio.Transport
        self.source = ""
        """The host of the client."""
        self._channel: TlsChannel | None = None
        """What encrypts; ``None``: nothing does."""
        self._is_idle = False
        """Whether it has its answers, and has not begun to send another request."""
        self._is_stalled = False
        """Whether it does not take its answer."""
        self._has_ended = False
        """Whether the client sends nothing more."""
        self._is_over = False
        """Whether it has its last answer."""
        self._timer: asyncio.TimerHandle | None = None
        self._turn: asyncio.Handle | None = None

    def abort(self) -> None:
        self._transport.abort()

    # --- what the transport says ------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        self.source = str((transport.get_extra_info("peername") or ("",))[0])
        self._wait(REQUEST_TIMEOUT)
        self._owner.admit(self)
        tls = self._owner.tls()
        self._channel = None if tls is None else TlsChannel(tls)

    def data_received(self, data: bytes) -> None:
        if self._is_over:
            return  # if it were not read, the client would lose the answer
        if self._channel is not None:
            data = self._decrypt(data, self._channel)
        if not (data or self._has_ended):
            return  # that was TLS alone
        self._unread += data
        if self._is_idle:
            self._is_idle = False
            self._wait(REQUEST_TIMEOUT)
        if self._turn is None and not self._is_stalled:
            self._advance()

    def _decrypt(self, data: bytes, channel: TlsChannel) -> bytes:
        try:
            said = channel.decrypt(data)
        except ssl.SSLError as error:
            logger.debug("an HTTP client does not agree on TLS: %r", error)
            self._transport.write(channel.take())
            self._transport.close()
            return b""
        self._transport.write(channel.take())
        self._has_ended = self._has_ended or channel.has_ended
        return said

    def eof_received(self) -> bool:
        self._has_ended = True
        return self._turn is not None or self._is_stalled

    def pause_writing(self) -> None:
        self._is_stalled = True
        self._transport.pause_reading()

    def resume_writing(self) -> None:
        self._is_stalled = False
        if not self._is_over:
            self._advance_soon()

    def connection_lost(self, exc: Exception | None) -> None:
        self._is_over = True
        for handle in (self._timer, self._turn):
            if handle is not None:
                handle.cancel()
        self._owner.forget(self)

    # --- requests and answers ---------------------------------------------------------------------

    def _wait(self, seconds: float) -> None:
        """Disconnect the client unless something happens until then."""
        if self._timer is not None:
            self._timer.cancel()
        self._timer = asyncio.get_running_loop().call_later(seconds, self.abort)

    def _advance_soon(self) -> None:
        if self._turn is None:
            self._turn = asyncio.get_running_loop().call_soon(self._advance)

    def _advance(self) -> None:
        """Answer the next request if it is there."""
        self._turn = None
        if self._is_stalled or self._is_over or self._transport.is_closing():
            return
        try:
            request = self._read_request()
            if request is not None:
                self._answer(request)
            elif self._has_ended:
                self._transport.close()
            else:
                self._read_on()
        except h11.RemoteProtocolError as error:
            self._send(_error(HTTPStatus(error.error_status_hint), f"{error!s:.200}"))

    def _read_request(self) -> h11.Request | None:
        """The next request, as soon as its head is complete.

        :raises h11.RemoteProtocolError: this is none, or its head is too long.
        """
        while (event := self._http.next_event()) is h11.NEED_DATA and self._unread:
            room = MAX_HEAD - len(self._http.trailing_data[0])
            self._http.receive_data(bytes(self._unread[:room]))
            del self._unread[:room]
        return event if isinstance(event, h11.Request) else None

    def _answer(self, request: h11.Request) -> None:
        """:raises h11.RemoteProtocolError: its body is not of the right form."""
        answer = self._owner.answer(request, is_encrypted=self._channel is not None)
        if not isinstance(self._http.next_event(), h11.EndOfMessage) and answer.status < 400:
            answer = _error(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, "a request for a page has no body")
        self._send(answer, with_body=request.method != b"HEAD")

    def _send(self, answer: Answer, *, with_body: bool = True) -> None:
        # Behind a request that cannot be read there may be anything.
        is_last = self._http.their_state is not h11.DONE or answer.status == HTTPStatus.BAD_REQUEST
        parts = [self._http.send(_head_of(answer, is_last=is_last))]
        if with_body:
            parts.append(self._http.send(h11.Data(data=answer.body)))
        parts.append(self._http.send(h11.EndOfMessage()))
        data = b"".join(parts)
        self._transport.write(data if self._channel is None else self._channel.encrypt(data))
        if is_last:
            self._finish()
            return
        self._http.start_next_cycle()
        self._wait(REQUEST_TIMEOUT)
        self._transport.pause_reading()
        self._advance_soon()

    def _read_on(self) -> None:
        if not self._http.trailing_data[0]:
            self._is_idle = True
            self._wait(IDLE_TIMEOUT)
        self._transport.resume_reading()

    def _finish(self) -> None:
        """Have the client close, for otherwise it might lose the answer; but not for long."""
        self._is_over = True
        self._unread.clear()
        self._wait(REQUEST_TIMEOUT)
        self._transport.resume_reading()
        if self._channel is not None:
            self._transport.write(self._channel.end())
        self._transport.write_eof()


def _error(status: HTTPStatus, text: str) -> Answer:
    return Answer(status, f"{text}\n".encode())


def _head_of(answer: Answer, *, is_last: bool) -> h11.Response:
    headers = [
        ("Content-Type", answer.content_type),
        ("Content-Length", str(len(answer.body))),
        ("Allow", "GET, HEAD"),
        ("Cache-Control", "no-store"),
        ("X-Content-Type-Options", "nosniff"),
    ]
    if answer.status == HTTPStatus.UNAUTHORIZED:
        headers.append(("WWW-Authenticate", 'Bearer realm="rio"'))
    if is_last:
        headers.append(("Connection", "close"))
    return h11.Response(
        status_code=answer.status.value, headers=headers, reason=answer.status.phrase
    )
