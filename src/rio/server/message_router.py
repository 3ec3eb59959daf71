"""How an application publishes events of objects from outside of them."""

from __future__ import annotations

import asyncio
from typing import Any

from rio._core.calls import Caller
from rio._core.dispatch import outside_of_turns
from rio.errors import NotExecuted, RioError
from rio.identity import ObjectId, name_of_type, type_name_of
from rio.logs import Logger
from rio.objects.message import Message, encode_event
from rio.objects.service_object import ServiceObject
from rio.objects.system_messages import Publish
from rio.server.pubsub import check_size
from rio.transport.protocol import text_of

logger = Logger("rio.server")


class MessageRouter:
    """Publishes events of objects from outside of them: from tasks, threads, hooks, and handlers
    of other objects. The :class:`rio.AppData` of each server has one: ::

        app.get(rio.MessageRouter).publish(Table, "poker-1", CardDealt("A"))

    An object publishes its own events with :meth:`rio.ServiceObject.publish`.
    """

    def __init__(self, caller: Caller, frame_limit: int) -> None:
        self._caller = caller
        self._frame_limit = frame_limit

    def publish(
        self, object_type: type[ServiceObject] | str, id: str, event: Message[Any], /
    ) -> None:
        """Hand an event to all subscribers of an object, without waiting for them. Any thread of
        the server's process may call this.

        The event goes to the node that has the object in memory, and takes no turn of the object.
        An object that is not in memory has no subscribers: it is not activated, and the event is
        lost. It is lost as well if no node can be reached within the timeout of the server, which
        the log tells. Events that one thread publishes for one object keep their order.

        :raises BadMessage: the event holds a value that MessagePack cannot carry, or that
            subscribers would read as another one. The text names the field.
        :raises BadIdentity: ``object_type`` or ``id`` is empty, too long or not valid text.
        :raises FrameTooLarge: the event is larger than the frame limit.
        :raises TypeError: the event is no :class:`rio.Message`.
        :raises RuntimeError: the server does not run.
        """
        object_id = ObjectId.check(name_of_type(object_type), id)
        notice = Publish(type_name_of(type(event)), encode_event(event))
        check_size(object_id, notice.name, notice.payload, self._frame_limit)
        loop = self._caller.loop
        if loop is None:
            raise RuntimeError(self._caller.why_not_open)
        if _runs_here(loop):
            self._send(object_id, notice)
        else:
            context = outside_of_turns()  # this thread's turn, if it has one, may end before that
            loop.call_soon_threadsafe(self._send_late, object_id, notice, context=context)

    def _send(self, object_id: ObjectId, notice: Publish) -> None:
        try:
            self._caller.tell(*object_id, notice)
        except NotExecuted as error:
            _log_loss(object_id, notice, error)

    def _send_late(self, object_id: ObjectId, notice: Publish) -> None:
        """Send what came from another thread, which hears of no error."""
        try:
            self._send(object_id, notice)
        except (RioError, RuntimeError) as error:
            _log_loss(object_id, notice, error)


def _runs_here(loop: asyncio.AbstractEventLoop) -> bool:
    try:
        return asyncio.get_running_loop() is loop
    except RuntimeError:
        return False


def _log_loss(object_id: ObjectId, notice: Publish, error: Exception) -> None:
    logger.warning("%s of %s was not published: %s", notice.name, object_id, text_of(error))
