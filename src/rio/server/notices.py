"""Notices: messages about an object that take no turn of it and do not bring it into memory."""

from __future__ import annotations

import asyncio
from typing import Final

from rio import background
from rio._core.dispatch import RemoteCaller, Turn
from rio.errors import Redirected, RioError, Unavailable, UnknownMessage
from rio.identity import ObjectId
from rio.objects.system_messages import Publish, Shutdown
from rio.security.acts import note_act
from rio.server import answers
from rio.server.activation import Activation
from rio.server.ownership import Ownership
from rio.transport.call_context import caller_of
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
            _refuse(turn, UnknownMessage("only the members of a cluster publish for its objects"))
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
            _refuse(turn, error)
        else:
            _confirm(turn, notice)
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
            _confirm(turn, notice)

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
        _refuse(turn, error)

    @property
    def tasks(self) -> list[asyncio.Task[None]]:
        """What looks for owners now."""
        return list(self._searches)


def _confirm(turn: Turn, notice: Notice) -> None:
    is_forced = isinstance(notice, Shutdown) and notice.force
    _note_act(turn, "forced-shutdown" if is_forced else turn.message_name)
    turn.reply(DONE)


def _refuse(turn: Turn, error: RioError) -> None:
    if not isinstance(error, Redirected):  # the owner does it, and notes it
        _note_act(turn, turn.message_name, error.message)
    turn.fail(error)


def _note_act(turn: Turn, act: str, refused: str = "") -> None:
    """Note what a client has asked for: what nodes ask for their objects want."""
    caller = turn.caller
    if isinstance(caller, RemoteCaller) and not caller.connection.is_node:
        who = caller_of(turn)
        note_act(act, f"{turn.type_name}/{turn.id}", who, caller.connection.peer_name, refused)


def _is_from_member(turn: Turn) -> bool:
    caller = turn.caller
    return isinstance(caller, RemoteCaller) and caller.connection.peer.role == "node"
