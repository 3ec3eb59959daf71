"""A subscription to what one object publishes, which follows the object when it moves."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Generic, Literal, Self, TypeVar, cast

from rio.errors import BadReply, ConfigurationError, Lagged, RioError
from rio.identity import type_name_of
from rio.objects.message import DynamicMessage, Message
from rio.transport import codec
from rio.transport.client_connection import ClientConnection

if TYPE_CHECKING:
    from rio.client.client import Client

E_co = TypeVar("E_co", covariant=True)

Overflow = Literal["raise", "drop_oldest", "drop_newest"]


class Subscription(Generic[E_co]):
    """Yields events: ``async for event in subscription``. Made by :meth:`rio.Client.subscribe`."""

    def __init__(
        self,
        client: Client,
        object_type: type[Any] | str,
        id: str,
        events: tuple[type[Message[Any]], ...],
        limit: int,
        overflow: Overflow,
    ) -> None:
        if limit < 1:
            raise ConfigurationError(
                f"the limit of a subscription is at least 1 event, got {limit}"
            )
        if overflow not in ("raise", "drop_oldest", "drop_newest"):
            raise ConfigurationError(
                f"overflow must be 'raise', 'drop_oldest' or 'drop_newest', got {overflow!r}"
            )
        self.number = 0
        """Under which the server sends events; a new one after each move."""
        self.connection: ClientConnection | None = None
        """On which events come."""
        self.missed = 0
        """Events that were dropped because the reader, or the connection, was too slow."""
        self.moves = 0
        """How often the subscription had to be made again, because the object or the connection
        went away; events may be lost meanwhile.
        """
        self._client = client
        self._object_type = object_type
        self._id = id
        self._decoders: dict[str, Callable[[bytes], Any]] = {
            type_name_of(cls): codec.decoder_of(cls) for cls in events
        }
        self._limit = limit
        self._overflow = overflow
        self._events: deque[Any] = deque()
        self._untold = 0
        self._sequence = 0
        self._arrived = asyncio.Event()
        self._attaching: asyncio.Task[None] | None = None
        self._is_looking = False
        self._has_ended = False
        self._failure: BaseException | None = None
        self._closed = False

    # --- reading ----------------------------------------------------------------------------------

    async def __aenter__(self) -> Self:
        await self._attach()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> E_co:
        """:raises Lagged: events were dropped, and ``overflow`` is ``"raise"``.

        :raises RioError: the object cannot be found any more.
        """
        if self.number == 0 and not self._closed:
            await self._attach()
        while not self._events and not self._untold:
            if self._failure is not None:
                raise self._failure
            if self._closed:
                raise StopAsyncIteration
            self._arrived.clear()
            await self._arrived.wait()
        if self._untold:
            missed, self._untold = self._untold, 0
            raise Lagged(missed)
        return cast(E_co, self._events.popleft())

    async def close(self) -> None:
        """End the subscription. Events that have arrived can still be read. Idempotent."""
        if self._closed:
            return
        self._closed = True
        self._arrived.set()
        self._client.detach(self)
        if self._attaching is not None:
            self._attaching.cancel()
            await asyncio.gather(self._attaching, return_exceptions=True)

    # --- what the client tells --------------------------------------------------------------------

    def receive(
        self, connection: ClientConnection, sequence: int, type_name: str, payload: bytes
    ) -> None:
        """An event has arrived."""
        self.connection = connection
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
        try:
            self._events.append(self._decode(type_name, payload))
        except RioError as error:
            self._failure = error
        self._arrived.set()

    def ended(self) -> None:
        """The object, or the connection to it, has gone away: look for it again."""
        self.connection = None
        self._has_ended = True
        if not self._closed and self._attaching is None and not self._is_looking:
            self.moves += 1
            self._attaching = asyncio.get_running_loop().create_task(
                self._attach_again(), name=f"subscribe again to {self._id}"
            )

    def connection_lost(self, connection: ClientConnection) -> None:
        if self.connection is connection:
            self.ended()

    async def _attach(self) -> None:
        """Find the object; again if it, or the connection on which it was found, is gone by now."""
        self._is_looking = True
        try:
            while self.connection is None and not self._closed:
                self._sequence = 0
                self._has_ended = False
                connection = await self._client.attach(self, self._object_type, self._id)
                self.connection = None if self._has_ended else connection
        finally:
            self._is_looking = False

    async def _attach_again(self) -> None:
        try:
            await self._attach()
        except RioError as error:
            self._failure = error
            self._arrived.set()
        finally:
            self._attaching = None

    def _miss(self, count: int) -> None:
        self.missed += count
        if self._overflow == "raise":
            self._untold += count
            self._arrived.set()

    def _decode(self, type_name: str, payload: bytes) -> Any:
        if not self._decoders:
            return DynamicMessage(type_name, codec.decode_dynamic(payload, failure=BadReply))
        try:
            return self._decoders[type_name](payload)
        except Exception as error:
            raise codec.decode_error(error, type_name, BadReply) from error
