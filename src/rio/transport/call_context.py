"""The context that travels with a call: the chain of calls that wait for it, in which a deadlock
shows, and what the program has it carry.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import msgspec

from rio._core.calls import Call
from rio._core.dispatch import RemoteCaller, Turn, current
from rio.errors import Deadlock
from rio.security.keys import Identity
from rio.transport.protocol import encode, read

MAX_CHAIN = 64
"""Calls within calls, after which the chain counts as an endless one."""


MAX_TRACE = 1024
"""Characters of a trace context that is passed on for a client."""


class Link(msgspec.Struct, array_like=True, frozen=True):
    """One call in a chain of calls that wait for each other."""

    type_name: str
    id: str
    message_name: str
    turn: int
    """The number of the turn that makes the next call."""

    def __str__(self) -> str:
        return f"{self.type_name}/{self.id}.{self.message_name}"


class Context(msgspec.Struct, omit_defaults=True, kw_only=True):
    """What travels with a call. Readers ignore unknown keys. Only nodes write a chain; the rest may
    come from clients.
    """

    trace: bool | tuple[str, ...] | None = None
    """The traceparent of W3C, and the tracestate if there is one. ``False``: it is not sampled."""
    values: dict[str, msgspec.Raw] = {}
    """Those of the program's context variables that are set, by name, in MessagePack."""
    chain: tuple[Link, ...] = ()
    """The calls that wait for this one, the outermost first."""
    caller: Identity | None = None
    """Who has made the first call of those that led to this one."""


def read_context(context: bytes | None) -> Context:
    """The context in the bytes that came with a call, if any did.

    :raises ProtocolError: the bytes are no context.
    """
    return Context() if context is None else read(context, Context)


def context_without_chain(
    values: Mapping[str, msgspec.Raw], trace: bool | tuple[str, ...] | None = None
) -> bytes | None:
    """The context of a call for which no turn waits; ``None``: it has nothing to carry."""
    if not values and trace is None:
        return None
    return encode(Context(trace=trace, values=dict(values)))


def sift_context(context: bytes) -> bytes | None:
    """What a server believes of the context of a client's call.

    :raises ProtocolError: the bytes are no context.
    """
    came_with = read_context(context)
    trace = came_with.trace
    if isinstance(trace, tuple) and sum(map(len, trace)) > MAX_TRACE:
        trace = None
    return context_without_chain(came_with.values, trace)


def caller_of(turn: Turn) -> Identity | None:
    """Who has asked for a turn, or for the first of the turns that led to it; ``None`` if nobody
    had to prove who it is, as without security, or if nobody has asked, as for a timer.
    """
    connection = turn.caller.connection if isinstance(turn.caller, RemoteCaller) else None
    if connection is None or connection.is_node:
        return read_context(turn.context).caller
    return None if connection.key is None else connection.key.identity


def caller() -> Identity | None:
    """Who has called the object whose handler runs: the holder of a key of :class:`rio.Security`.

    If other objects have called on the way, it is still the client that called the first of them.
    ``None``: the server has no security; or it was no client, but a timer or a task of a server.

    :raises RuntimeError: no handler runs.
    """
    turn = current()
    if turn is None:
        raise RuntimeError("no handler runs here, so nobody has called")
    return caller_of(turn)


def nested_context(turn: Turn) -> bytes:
    """The context of a call that is made during ``turn``, and carries on what came with that. What
    hooks call carries no values.

    :raises Deadlock: the chain is longer than ``MAX_CHAIN``.
    """
    context = read_context(turn.context)
    if turn.is_hook:
        context.values = {}
    if turn.span is not None:
        context.trace = False
    return _chained(turn, context)


def context_with(
    turn: Turn, values: Mapping[str, msgspec.Raw], trace: bool | tuple[str, ...] | None
) -> bytes:
    """The context of a call that is made during ``turn`` with values and a trace of its own.

    :raises Deadlock: the chain is longer than ``MAX_CHAIN``.
    """
    context = read_context(turn.context)
    context.values = dict(values)
    context.trace = context.trace if trace is None else trace
    return _chained(turn, context)


def _chained(turn: Turn, context: Context) -> bytes:
    chain = _without_earlier_turns(context.chain, turn)
    if len(chain) >= MAX_CHAIN:
        links = names_of(chain)
        end = " -> ".join(links[-4:])
        raise Deadlock(
            f"a chain of {MAX_CHAIN} calls within calls does not end: ... -> {end}; send what"
            " nobody awaits with tell()",
            links,
        )
    context.caller = caller_of(turn)
    context.chain = (*chain, Link(turn.type_name, turn.id, turn.message_name, turn.number))
    return encode(context)


def _without_earlier_turns(chain: tuple[Link, ...], turn: Turn) -> tuple[Link, ...]:
    """The part of a chain that may wait for ``turn``. An object runs one turn at a time, so an
    earlier one of the same object has ended, and nobody waits through it.
    """
    own = (turn.type_name, turn.id)
    places = [place for place, link in enumerate(chain) if (link.type_name, link.id) == own]
    return chain[places[-1] + 1 :] if places else chain


class Cycle:
    """Calls that lead from the running turn of an object back to a call that waits for it.

    ``links``: the turns that made them, from the running one on.
    """

    def __init__(self, links: Sequence[Link], waiting: Turn) -> None:
        last = f"{waiting.type_name}/{waiting.id}.{waiting.message_name}"
        names = [*names_of(links), last]
        self.error = Deadlock(f"the call would wait for itself: {' -> '.join(names)}", names)
        self.running = links[0].turn
        """The number of the running turn."""
        self._next = None if len(links) == 1 else (links[1].type_name, links[1].id)
        """The object through which the running turn would wait; ``None``: its own."""

    def is_closed_by(self, call: Call, waiting: Turn) -> bool:
        """Whether the running turn waits for ``waiting`` if it awaits this call of its own."""
        if self._next is not None:
            return self._next == (call.type_name, call.id)
        own = (waiting.type_name, waiting.id, waiting.request_id)
        return own == (call.type_name, call.id, call.request_id)


def find_cycle(waiting: Turn, running: Turn) -> Cycle | None:
    """The calls that lead from ``running`` to ``waiting``, which waits for its end, if there are
    any.
    """
    chain = read_context(waiting.context).chain
    for place, link in enumerate(chain):
        if (link.turn, link.type_name, link.id) == (running.number, running.type_name, running.id):
            return Cycle(chain[place:], waiting)
    return None


def names_of(chain: Sequence[Link]) -> list[str]:
    return [str(link) for link in chain]
