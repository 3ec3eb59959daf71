"""Notices: messages about an object that take no turn of it and do not bring it into memory."""

from __future__ import annotations

import asyncio
from typing import Final

from rio import background
from rio._core.dispatch import RemoteCaller, Turn
from rio.errors import RioError, Unavailable, UnknownMessage
from rio.identity import ObjectId
from rio.objects.system_messages import Publish, Shutdown
from rio.server import answers
from rio.server.activation import Activation
from rio.server.ownership import Ownership
from rio.transport.protocol import encode

Notice = Publish | Shutdown
NOTICES: Final = (Publish, Shutdown)
DONE: Final = encode(None)


class Notices:
    """Hands notices to the objects of this node, and sends those about other objects to their
    owners. One about an object that nobody has in memory is answered, and does nothing.
    """

    def __init__(self, ownership: Ownership) -> None:
        self._ownership = ownership
        self._searches: dict[asyncio.Task[None], Turn] = {}

    def take(self, turn: Turn) -> None:
        """A notice has arrived."""
        turn.open_span()
        try:
            notice: Notice = turn.read_message()
        except Exception as error:
            turn.fail(answers.undecodable(turn, error))
            return
        if isinstance(notice, Publish) and not _is_from_member(turn):
            turn.fail(UnknownMessage("only the members of a cluster publish for its objects"))
        elif not self._hand_over(turn, notice):
            self._start_search(turn, notice)

    def _hand_over(self, turn: Turn, notice: Notice) -> bool:
        """Whether the object is in memory here; then it has the notice."""
        activation: Activation | None = turn.table.mailboxes.get(turn.id)
        if activation is None:
            return False
        try:
            match notice:
                case Publish(name, payload):
                    activation.pass_on(name, payload)
                case Shutdown(force):
                    activation.end_soon(force=force)
        except RioError as error:
            turn.fail(error)
        else:
            turn.reply(DONE)
        return True

    # --- objects that are not in memory here ------------------------------------------------------

    def _start_search(self, turn: Turn, notice: Notice) -> None:
        turn.keep()
        task = background.start(
            self._search(turn, notice),
            f"look for {turn.type_name}/{turn.id}",
            context=turn.dispatcher.new_context(),
        )
        self._searches[task] = turn
        task.add_done_callback(self._end_search)

    async def _search(self, turn: Turn, notice: Notice) -> None:
        async with asyncio.timeout(turn.deadline - turn.dispatcher.now()):
            await self._ownership.check_elsewhere(ObjectId(turn.type_name, turn.id))
        if not turn.finished and not self._hand_over(turn, notice):
            turn.reply(DONE)

    def _end_search(self, task: asyncio.Task[None]) -> None:
        """Answer with what the search has raised. A task that is cancelled before its first step
        runs none of its own code.
        """
        turn = self._searches.pop(task)
        error = asyncio.CancelledError() if task.cancelled() else task.exception()
        if turn.finished:
            return
        if not isinstance(error, RioError):
            name = type(error).__name__
            error = Unavailable(f"{turn.type_name}/{turn.id} was not looked for: {name}")
        turn.fail(error)

    @property
    def tasks(self) -> list[asyncio.Task[None]]:
        """What looks for owners now."""
        return list(self._searches)


def _is_from_member(turn: Turn) -> bool:
    caller = turn.caller
    return isinstance(caller, RemoteCaller) and caller.connection.peer.role == "node"
