"""Where a subscription is attached: to which object, on which connection."""

from __future__ import annotations

import asyncio
from typing import Any, Protocol

from rio import background
from rio.client.event_queue import EventQueue
from rio.identity import ObjectId
from rio.transport.client_connection import ClientConnection

REPEAT_DELAY = 0.1
"""Seconds after which an object is looked for again if the task that did so was cancelled."""


class SubscriptionOwner(Protocol):
    """What an attachment asks of its client."""

    async def attach(self, attachment: Attachment, /) -> ClientConnection | None:
        """Have the object's events sent to ``attachment``, under a new number.

        Returns the connection on which they come.
        """
        ...

    def detach(self, attachment: Attachment, /) -> None:
        """Deliver nothing to ``attachment`` any more."""
        ...


class Attachment:
    """Has the events of one object put into a queue, and follows the object when it moves."""

    def __init__(
        self, owner: SubscriptionOwner, object_id: ObjectId, queue: EventQueue[Any]
    ) -> None:
        self.object_id = object_id
        self.queue = queue
        self.number = 0
        """Under which the server sends the events; a new one after each move."""
        self.connection: ClientConnection | None = None
        """On which the events come."""
        self.moves = 0
        """How often it was attached again."""
        self._owner = owner
        self._was_attached = False
        self._has_stood = False
        self._is_looking = False
        self._has_ended = False
        self._attaching: asyncio.Task[None] | None = None
        self._closed = False

    @property
    def is_started(self) -> bool:
        """Whether it was attached, or is about to be."""
        return self._was_attached or self._is_looking or self._closed

    async def attach(self) -> None:
        """Find the object; again if it, or the connection on which it was found, is gone by now.

        :raises RioError: the object cannot be found.
        """
        self._is_looking = True
        try:
            while self.connection is None and not self._closed:
                self.queue.restart()
                self._has_ended = False
                connection = await self._owner.attach(self)
                self._was_attached = True
                self.moves += self._has_stood
                self._has_stood = True
                self.connection = None if self._has_ended else connection
        except BaseException:
            self._was_attached = False  # so the next read looks for it
            raise
        finally:
            self._is_looking = False

    def attach_again(self) -> None:
        """The object, or the connection to it, has gone away: look for the object again."""
        self.note_loss()
        self.look_again()

    def note_loss(self) -> None:
        """The object, or the connection to it, has gone away: no event comes before
        :meth:`look_again`.
        """
        self.connection = None
        self._has_ended = True

    @property
    def _is_attaching(self) -> bool:
        return self._attaching is not None and not self._attaching.done()

    def look_again(self) -> None:
        """Look for the object in a task, unless somebody does so already, or has found it."""
        if self._closed or self._is_looking or self._is_attaching or self.connection is not None:
            return
        self._attaching = background.start(
            self._attach_in_task(), f"subscribe again to {self.object_id}"
        )
        self._attaching.add_done_callback(self._repeat_if_cancelled)

    async def _attach_in_task(self) -> None:
        try:
            await self.attach()
        except Exception as error:
            self._was_attached = False  # so the next read looks for it
            self.queue.fail(error)

    def _repeat_if_cancelled(self, task: asyncio.Task[None]) -> None:
        """Look again if somebody else cancelled the task: a reader may wait. This is a callback,
        because a task that is cancelled before its first step runs none of its code.
        """
        if task is self._attaching:
            self._attaching = None
        if task.cancelled() and not self._closed:
            asyncio.get_running_loop().call_later(REPEAT_DELAY, self.look_again)

    async def close(self) -> None:
        """Idempotent."""
        if not self._closed:
            self.end()
            if self._attaching is not None:
                await asyncio.gather(self._attaching, return_exceptions=True)

    def end(self) -> None:
        """Close, and do not wait until nothing runs any more. Idempotent."""
        if not self._closed:
            self._closed = True
            self.queue.close()
            self._owner.detach(self)
            if self._attaching is not None:
                self._attaching.cancel()
