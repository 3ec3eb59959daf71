"""What travels with a call: the chain of calls that wait for it, and how a deadlock shows in it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import msgspec

from rio.errors import Deadlock
from rio.transport.protocol import encode, read

MAX_CHAIN = 64
"""Calls within calls before the chain is taken for an endless one."""


# --- what travels with a call ---------------------------------------------------------------------


class Link(msgspec.Struct, array_like=True, frozen=True):
    """One call in a chain of calls that wait for each other."""

    type_name: str
    id: str
    message_name: str
    turn: int
    """The number of the turn that makes the next call."""

    def __str__(self) -> str:
        return f"{self.type_name}/{self.id}.{self.message_name}"


class Context(msgspec.Struct, omit_defaults=True):
    """What travels with a call; unknown keys are ignored."""

    chain: tuple[Link, ...] = ()
    """Who waits for this call, the outermost first."""


class RunningTurn(Protocol):
    """What is needed of a :class:`rio._core.dispatch.Turn`."""

    @property
    def type_name(self) -> str: ...
    @property
    def id(self) -> str: ...
    @property
    def message_name(self) -> str: ...
    @property
    def number(self) -> int: ...
    @property
    def context(self) -> bytes | None: ...


def read_context(context: bytes | None) -> Context:
    """:raises ProtocolError: it does not decode."""
    return Context() if context is None else read(context, Context)


def nested_context(turn: RunningTurn) -> bytes:
    """What a call carries that is made during ``turn``.

    :raises Deadlock: the chain is longer than ``MAX_CHAIN``.
    """
    context = read_context(turn.context)
    if len(context.chain) >= MAX_CHAIN:
        links = names(context.chain)
        raise Deadlock(
            f"a chain of {MAX_CHAIN} calls within calls does not end: "
            f"... -> {' -> '.join(links[-4:])}",
            links,
        )
    context.chain = (*context.chain, Link(turn.type_name, turn.id, turn.message_name, turn.number))
    return encode(context)


def cycle(waiting: RunningTurn, holder: RunningTurn) -> Deadlock | None:
    """The error for a call that would wait for the turn ``holder``, if that turn waits for the
    call.
    """
    chain = read_context(waiting.context).chain
    for place, link in enumerate(chain):
        if link.turn == holder.number and (link.type_name, link.id) == (
            holder.type_name,
            holder.id,
        ):
            links = [
                *names(chain[place:]),
                f"{waiting.type_name}/{waiting.id}.{waiting.message_name}",
            ]
            return Deadlock(f"the call would wait for itself: {' -> '.join(links)}", links)
    return None


def names(chain: Sequence[Link]) -> list[str]:
    return [str(link) for link in chain]
