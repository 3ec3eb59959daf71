"""The events of one subscription that have arrived and wait for their reader."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from typing import Any, Generic, Literal, TypeVar, cast

from rio.errors import BadReply, ConfigurationError, Gap, RioError
from rio.identity import type_name_of
from rio.objects.message import DynamicMessage, Message
from rio.transport import codec
from rio.transport.protocol import DROPPED

E_co = TypeVar("E_co", covariant=True)

Overflow = Literal["raise", "drop_oldest", "drop_newest"]


class EventQueue(Generic[E_co]):
    """Holds at most ``limit`` events, only those of the classes ``events`` if there are any.

    :raises ConfigurationError: ``limit`` is below 1, or ``overflow`` is no policy.
    :raises TypeError: a class of ``events`` is no subclass of :class:`rio.Message`.
    """

    def __init__(
        self, events: tuple[type[Message[Any]], ...], limit: int, overflow: Overflow
    ) -> None:
        if limit < 1:
            raise ConfigurationError(
                f"the limit of a subscription is at least 1 event, got {limit}"
            )
        if overflow not in ("raise", "drop_oldest", "drop_newest"):
            raise ConfigurationError(
                f"overflow must be 'raise', 'drop_oldest' or 'drop_newest', got {overflow!r}"
            )
        for cls in events:
            if not (isinstance(cls, type) and issubclass(cls, Message)) or cls is Message:
                raise TypeError(f"an event is a subclass of rio.Message, got {cls!r:.200}")
        self.missed = 0
        """Events that were dropped since the start, as far as their number is known."""
        self._decoders: dict[str, Callable[[bytes], Any]] = {
            type_name_of(cls): codec.decoder_of(cls) for cls in events
        }
        self._limit = limit
        self._overflow = overflow
        self._events: deque[Any] = deque()
        """An exception among them stands for events that are missing or did not decode."""
        self._dropped: Gap | None = None
        """What was dropped before those, and the reader has not been told of."""
        self._token = 0
        """Of the activation whose events come."""
        self._offset = 0
        """How many events that activation had published before the subscription began."""
        self._sequence = 0
        """The number of the last event that came, counted from there."""
        self._early: list[tuple[int, str, bytes]] | None = None
        """Events that came before the answer that says where they begin; ``None``: it has come."""
        self._arrived = asyncio.Event()
        self._failure: BaseException | None = None
        self._closed = False

    # --- reading ----------------------------------------------------------------------------------

    @property
    def is_readable(self) -> bool:
        """Whether a read gives an event or an error at once."""
        return bool(self._events or self._dropped or self._failure)

    async def get(self) -> E_co:
        """The next event.

        :raises Gap: events are missing here.
        :raises StopAsyncIteration: the queue was closed, and has been read to its end.
        """
        while not self._events and self._dropped is None:
            if self._failure is not None:
                failure, self._failure = self._failure, None
                raise failure
            if self._closed:
                raise StopAsyncIteration
            self._arrived.clear()
            await self._arrived.wait()
        if self._dropped is not None:
            gap, self._dropped = self._dropped, None
            raise gap
        event = self._events.popleft()
        if isinstance(event, RioError):
            raise event
        return cast(E_co, event)

    # --- writing ----------------------------------------------------------------------------------

    def restart(self) -> None:
        """The subscription is made again: what comes from now on waits for :meth:`begin`."""
        self._early = []

    def begin(self, token: int, offset: int) -> None:
        """The subscription stands: the first event is the one after ``offset`` of the activation
        with this token. Unless all events before it came, the reader is told of a gap.
        """
        if token == self._token:
            self._note_gap(offset - self._offset - self._sequence)
        elif self._token:
            self._note_gap(None)
        self._token, self._offset, self._sequence = token, offset, 0
        early, self._early = self._early or [], None
        for event in early:
            self.put(*event)

    def put(self, sequence: int, type_name: str, payload: bytes) -> None:
        """An event has arrived. A gap in ``sequence`` stands for events that the server dropped."""
        if self._early is not None:
            self._early.append((sequence, type_name, payload))
            return
        missed, self._sequence = sequence - self._sequence - 1, sequence
        if type_name == DROPPED:
            self._note_gap(missed + 1)
            return
        if missed > 0:
            self._note_gap(missed)
        if self._decoders and type_name not in self._decoders:
            return
        if len(self._events) >= self._limit:
            if self._overflow == "drop_newest":
                self.missed += 1
                return
            self._drop_oldest()
        self._events.append(self._decode(type_name, payload))
        self._arrived.set()

    def fail(self, error: BaseException) -> None:
        """No event will come any more, and the reader is to be told why."""
        self._failure = error
        self._arrived.set()

    def close(self) -> None:
        """No event will come any more; those that have arrived can still be read."""
        self._closed = True
        self._arrived.set()

    def _drop_oldest(self) -> None:
        oldest = self._events.popleft()
        if isinstance(oldest, Gap):
            self._dropped = _sum(self._dropped, oldest)
        else:
            self.missed += 1
            if self._overflow == "raise":
                self._dropped = _sum(self._dropped, Gap(1))

    def _note_gap(self, missed: int | None) -> None:
        """Events are missing before the next one that comes."""
        if missed is not None and missed <= 0:
            return
        self.missed += missed or 0
        if self._overflow == "raise":
            last = self._events.pop() if self._events and _is_gap(self._events[-1]) else None
            self._events.append(_sum(last, Gap(missed)))
            self._arrived.set()

    def _decode(self, type_name: str, payload: bytes) -> Any:
        """The event, or the error that its reader gets in its place."""
        try:
            if not self._decoders:
                return DynamicMessage(type_name, codec.decode_dynamic(payload, failure=BadReply))
            return self._decoders[type_name](payload)
        except BadReply as error:
            return error
        except BaseException as error:  # it would end the connection, or the event loop
            unreadable = codec.decoding_error(error, type_name, BadReply)
            unreadable.__cause__ = error
            return unreadable


def _is_gap(event: Any) -> bool:
    return isinstance(event, Gap)


def _sum(gap: Gap | None, other: Gap) -> Gap:
    """One gap for two that follow each other."""
    if gap is None:
        return other
    if gap.missed is None or other.missed is None:
        return Gap(None)
    return Gap(gap.missed + other.missed)
