"""All subscriptions of a client, by the number under which their events come."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Iterable

from rio._core.calls import Caller, ClientHalf
from rio._core.wire import Kind
from rio.client.attachment import Attachment
from rio.objects.system_messages import Subscribe
from rio.transport import protocol
from rio.transport.client_connection import ClientConnection

Connections = Callable[[], Iterable[ClientConnection]]
"""All connections of the client."""
FindConnection = Callable[[str, str], ClientConnection | None]
"""By type name and id: the connection behind which an object has answered."""
GROUP = 1000
"""Subscriptions that begin to look for their objects, or are closed, in one turn of the loop, at
most.
"""


class Subscriptions:
    """Attaches subscriptions to objects, and gives each event to its own."""

    def __init__(self, caller: Caller, find: FindConnection, connections: Connections) -> None:
        self._caller = caller
        self._find = find
        self._connections = connections
        self._attachments: dict[int, Attachment] = {}
        self._last_number = 0
        self._lost: deque[Attachment] = deque()
        """Those that have lost their connection, and have yet to look for their objects."""
        self._next_group: asyncio.Handle | None = None

    # --- what connections bring -------------------------------------------------------------------

    def event(self, connection: ClientConnection, number: int, body: bytes) -> None:
        """An event has arrived."""
        attachment = self._attachments.get(number)
        if attachment is not None:
            attachment.connection = connection
            attachment.queue.put(*protocol.read_event(body))
        else:
            self._end(number, connection)  # its caller gave up before it was attached

    def stream_ended(self, number: int) -> None:
        """A server has ended a subscription."""
        attachment = self._attachments.get(number)
        if attachment is not None:
            attachment.attach_again()

    def connection_lost(self, connection: ClientConnection) -> None:
        """No event will come on this connection any more: look for the objects elsewhere, for a
        group of subscriptions in each turn of the loop.
        """
        for attachment in self._attachments.values():
            if attachment.connection is connection:
                attachment.note_loss()
                self._lost.append(attachment)
        if self._lost and self._next_group is None:
            self._look_for_lost()

    def _look_for_lost(self) -> None:
        for _ in range(min(GROUP, len(self._lost))):
            self._lost.popleft().look_again()
        self._next_group = (
            asyncio.get_running_loop().call_soon(self._look_for_lost) if self._lost else None
        )

    # --- what attachments ask ---------------------------------------------------------------------

    async def attach(self, attachment: Attachment) -> ClientConnection | None:
        """Have an object's events sent to ``attachment``, under a new number.

        A subscription is an ordinary call to the object. Returns the connection on which the events
        come.
        """
        self._attachments.pop(attachment.number, None)
        self._last_number += 1
        attachment.number = self._last_number
        self._attachments[attachment.number] = attachment
        type_name, id = attachment.object_id
        try:
            position = await self._caller.send(type_name, id, Subscribe(attachment.number))
        except BaseException:
            self._give_up(attachment.number)
            raise
        attachment.queue.begin(*position)
        return self._find(type_name, id)

    def detach(self, attachment: Attachment) -> None:
        """Deliver nothing to ``attachment`` any more."""
        self._forget(attachment.number, attachment.connection)

    async def close(self) -> None:
        """Close all subscriptions."""
        self._lost.clear()
        attachments = list(self._attachments.values())
        try:
            for count, attachment in enumerate(attachments, 1):
                await attachment.close()
                if not count % GROUP:
                    await asyncio.sleep(0)
        finally:
            for attachment in attachments:  # those that are left after a cancellation
                attachment.end()

    def __len__(self) -> int:
        return len(self._attachments)

    def _give_up(self, number: int) -> None:
        """The call was not answered. It may be on any connection, and servers do not mind to hear
        of the end of what they do not have.
        """
        self._attachments.pop(number, None)
        for connection in self._connections():
            self._end(number, connection)

    def _forget(self, number: int, connection: ClientHalf | None) -> None:
        self._attachments.pop(number, None)
        self._end(number, connection)

    def _end(self, number: int, connection: ClientHalf | None) -> None:
        """Tell the server that nobody listens under this number."""
        if connection is not None and connection.usable:
            connection.put(protocol.write_bare(Kind.END, number))
