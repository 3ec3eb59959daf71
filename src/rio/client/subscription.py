"""A subscription to what one object publishes."""

from __future__ import annotations

from collections.abc import Coroutine
from typing import Any, Generic, Self, TypeVar

from rio.client.attachment import Attachment
from rio.client.event_queue import EventQueue

E_co = TypeVar("E_co", covariant=True)


class Subscription(Generic[E_co]):
    """Yields what one object publishes: ``async for event in subscription``.

    :meth:`rio.Client.subscribe` makes it. It follows the object when the object moves to another
    server. Enter it (``async with subscription``) to be sure that it stands before the next line
    runs; a subscription that is only read stands from the first read on.
    """

    def __init__(self, attachment: Attachment, queue: EventQueue[E_co]) -> None:
        self._attachment = attachment
        self._queue = queue

    @property
    def missed(self) -> int:
        """How many events did not come, as far as their number is known: the reader, or the
        connection, was too slow, or the connection broke.
        """
        return self._queue.missed

    @property
    def moves(self) -> int:
        """How often the subscription was made again, because the object or the connection had gone
        away.
        """
        return self._attachment.moves

    async def __aenter__(self) -> Self:
        """Subscribe now.

        :raises RioError: the object cannot be found; see :meth:`rio.Client.send`.
        """
        await self._attachment.attach()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    def __aiter__(self) -> Self:
        return self

    def __anext__(self) -> Coroutine[Any, Any, E_co]:
        """The next event; the first read subscribes, unless the subscription was entered.

        :raises Gap: events are missing here, or may be, and ``overflow`` is ``"raise"``; the next
            read goes on.
        :raises RioError: the object cannot be found any more, or an event does not decode.
        :raises StopAsyncIteration: the subscription was closed and read to its end.
        """
        if self._queue.is_readable or self._attachment.is_started:
            return self._queue.get()
        return self._start_and_get()

    async def _start_and_get(self) -> E_co:
        await self._attachment.attach()
        return await self._queue.get()

    async def close(self) -> None:
        """End the subscription. Events that have arrived can still be read. Idempotent."""
        await self._attachment.close()
