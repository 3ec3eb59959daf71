"""The events of one subscription that have arrived and wait for their reader."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from typing import Any, Generic, Literal, TypeVar, cast

from rio.errors import BadReply, ConfigurationError, Lagged
from rio.identity import type_name_of
from rio.objects.message import DynamicMessage, Message
from rio.transport import codec

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
        """Events that were dropped since the start."""
        self._decoders: dict[str, Callable[[bytes], Any]] = {
            type_name_of(cls): codec.decoder_of(cls) for cls in events
        }
        self._limit = limit
        self._overflow = overflow
        self._events: deque[Any] = deque()
        """An exception among them stands for an event that did not decode."""
        self._unreported = 0
        """Dropped events that the reader has not been told of."""
        self._sequence = 0
        """The number of the last event that came."""
        self._arrived = asyncio.Event()
        self._failure: BaseException | None = None
        self._closed = False

    # --- reading ----------------------------------------------------------------------------------

    @property
    def is_readable(self) -> bool:
        """Whether a read gives an event or an error at once."""
        return bool(self._events or self._unreported or self._failure)

    async def get(self) -> E_co:
        """The next event.

        :raises StopAsyncIteration: the queue was closed, and has been read to its end.
        """
        while not self._events and not self._unreported:
            if self._failure is not None:
                failure, self._failure = self._failure, None
                raise failure
            if self._closed:
                raise StopAsyncIteration
            self._arrived.clear()
            await self._arrived.wait()
        if self._unreported:
            missed, self._unreported = self._unreported, 0
            raise Lagged(missed)
        event = self._events.popleft()
        if isinstance(event, BadReply):
            raise event
        return cast(E_co, event)

    # --- writing ----------------------------------------------------------------------------------

    def put(self, sequence: int, type_name: str, payload: bytes) -> None:
        """An event has arrived. A gap in ``sequence`` stands for events that the server dropped."""
        missed, self._sequence = sequence - self._sequence - 1, sequence
        if missed > 0:
            self._miss(missed)
        if self._decoders and type_name not in self._decoders:
            return
        if len(self._events) >= self._limit:
            self._miss(1)
            if self._overflow == "drop_newest":
                return
            self._events.popleft()
        self._events.append(self._decode(type_name, payload))
        self._arrived.set()

    def restart(self) -> None:
        """Events are numbered from 1 again: they come from another place."""
        self._sequence = 0

    def fail(self, error: BaseException) -> None:
        """No event will come any more, and the reader is to be told why."""
        self._failure = error
        self._arrived.set()

    def close(self) -> None:
        """No event will come any more; those that have arrived can still be read."""
        self._closed = True
        self._arrived.set()

    def _miss(self, count: int) -> None:
        self.missed += count
        if self._overflow == "raise":
            self._unreported += count
            self._arrived.set()

    def _decode(self, type_name: str, payload: bytes) -> Any:
        """The event, or the error that its reader gets in its place."""
        try:
            if not self._decoders:
                return DynamicMessage(type_name, codec.decode_dynamic(payload, failure=BadReply))
            return self._decoders[type_name](payload)
        except BadReply as error:
            return error
        except Exception as error:
            unreadable = codec.decoding_error(error, type_name, BadReply)
            unreadable.__cause__ = error
            return unreadable
