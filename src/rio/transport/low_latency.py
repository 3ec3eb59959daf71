"""``latency="low"``: an event loop that stays awake while calls are under way.

A loop that waits for the network sleeps, and the system takes 5 to 30 µs to wake it: more than all
that ``rio`` does for a call. So after each write it looks again and again for what comes next, for
a while, and only then goes to sleep.
"""

from __future__ import annotations

import asyncio
import contextvars
from collections.abc import Callable
from typing import Any, Literal, TypeAlias

from rio._core.clock import Clock, now
from rio._core.dispatch import Dispatcher
from rio._core.frame import ReceiveBuffer
from rio.errors import ConfigurationError
from rio.security.trust import Trust
from rio.transport.client_connection import ClientConnection, ClientOwner
from rio.transport.protocol import Hello
from rio.transport.server_connection import ServerConnection, ServerOwner

Latency: TypeAlias = Literal["normal", "low"]

SPIN_TIME = 50e-6
"""Seconds for which a loop stays awake after a write."""

LONGEST_PAUSE = 63
"""Writes that pass before a loop stays awake again for which that has not paid, at most."""


def make_spinner(latency: Latency) -> Spinner | None:
    """What ``latency=`` asks for; ``None``: the loop sleeps as ever.

    :raises ConfigurationError: it is none of the two.
    """
    if latency not in ("normal", "low"):
        raise ConfigurationError(f'latency= takes "normal" or "low", got {latency!r}')
    return Spinner() if latency == "low" else None


class Spinner:
    """Keeps the loop of its owner, a client or a server, awake after a write, when an answer or the
    next call may be near: it has the loop call it in each turn, and so the loop has something to do
    and does not sleep. All else that is due has its turn too, timers and threads as well.

    It spins only while that pays. If nothing was read in time, because handlers or the network take
    longer, calls are rare, or the other side needs this very core, it lets some writes pass before
    it tries again: 1, then 3, 7 and so on up to :data:`LONGEST_PAUSE`. Each time that something was
    read in time, that becomes half as many.

    ``clock``: seconds, of the machine by default. The loop stays awake while it stands still.
    """

    def __init__(self, clock: Clock | None = None) -> None:
        self._clock = clock or now
        self._loop: asyncio.AbstractEventLoop | None = None
        """On which it spins; ``None``: it is not open."""
        self._handle: asyncio.Handle | None = None
        """What stands in the loop's queue; ``None``: it does not spin."""
        self._context = contextvars.Context()
        self._was_written = False
        self._until = 0.0
        self._was_answered = False
        """Something was read in time since the last write."""
        self._pause = 0
        """Writes that it lets pass before it spins again."""
        self._writes_to_pass = 0

    @property
    def is_spinning(self) -> bool:
        """Whether the loop is kept awake now."""
        return self._handle is not None

    def open(self) -> None:
        """Take note of what is written from now on, on the loop that runs."""
        self._loop = asyncio.get_running_loop()

    def close(self) -> None:
        """Let the loop sleep, whatever happens. Idempotent; it can be opened again."""
        self._loop = None
        if self._handle is not None:
            self._handle.cancel()
            self._handle = None

    def note_write(self) -> None:
        """Something was written: the other side may answer soon, or ask again."""
        self._was_written = True
        if self._handle is None and self._loop is not None:
            if self._writes_to_pass:
                self._writes_to_pass -= 1
            else:
                self._handle = self._loop.call_soon(self._turn, context=self._context)

    def note_read(self) -> None:
        """Something was read."""
        if self._handle is not None and not self._was_answered and self._clock() < self._until:
            self._was_answered = True
            self._pause //= 2

    def _turn(self) -> None:
        assert self._loop is not None
        moment = self._clock()
        if self._was_written:
            self._was_written = self._was_answered = False
            self._until = moment + SPIN_TIME
        if moment < self._until:
            self._handle = self._loop.call_soon(self._turn, context=self._context)
        else:
            self._handle = None
            if not self._was_answered:
                self._pause = min(2 * self._pause + 1, LONGEST_PAUSE)
            self._writes_to_pass = self._pause


class LowLatencyClientConnection(ClientConnection):
    """Tells a spinner of what it reads and writes."""

    def __init__(
        self,
        spinner: Spinner,
        loop: asyncio.AbstractEventLoop,
        owner: ClientOwner,
        hello: Hello,
        frame_limit: int,
        receive_buffer: ReceiveBuffer,
        security: Trust | None = None,
    ) -> None:
        super().__init__(loop, owner, hello, frame_limit, receive_buffer, security)
        self._spinner = spinner

    def connection_made(self, transport: Any) -> None:
        super().connection_made(announcing(transport, self._spinner.note_write))

    def buffer_updated(self, nbytes: int) -> None:
        self._spinner.note_read()
        super().buffer_updated(nbytes)


class LowLatencyServerConnection(ServerConnection):
    """Tells a spinner of what it reads and writes."""

    def __init__(
        self, spinner: Spinner, dispatcher: Dispatcher, owner: ServerOwner, frame_limit: int
    ) -> None:
        super().__init__(dispatcher, owner, frame_limit)
        self._spinner = spinner

    def connection_made(self, transport: Any) -> None:
        super().connection_made(announcing(transport, self._spinner.note_write))

    def buffer_updated(self, nbytes: int) -> None:
        self._spinner.note_read()
        super().buffer_updated(nbytes)


def announcing(transport: Any, note: Callable[[], None]) -> Any:
    """The transport, or if it has a socket one that calls ``note`` after each write."""
    if transport.get_extra_info("socket") is None:
        return transport
    return AnnouncingTransport(transport, note)


class AnnouncingTransport:
    """A transport that calls ``note`` after each write. All else is that of the transport."""

    def __init__(self, transport: Any, note: Callable[[], None]) -> None:
        self._transport = transport
        self._write = transport.write
        self._note = note

    def write(self, data: bytes) -> None:
        self._write(data)
        self._note()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._transport, name)
