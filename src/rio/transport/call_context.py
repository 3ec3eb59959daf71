"""The context that travels with a call: the chain of calls that wait for it.

A deadlock shows in the chain.
"""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from rio._core.dispatch import Turn
from rio.errors import Deadlock
from rio.transport.protocol import encode, read

MAX_CHAIN = 64
"""Calls within calls, after which the chain counts as an endless one."""


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
    """What travels with a call. Readers ignore unknown keys."""

    chain: tuple[Link, ...] = ()
    """The calls that wait for this one, the outermost first."""


def read_context(context: bytes | None) -> Context:
    """The context in the bytes that came with a call, if any did.

    :raises ProtocolError: the bytes are no context.
    """
    return Context() if context is None else read(context, Context)


def nested_context(turn: Turn) -> bytes:
    """The context of a call that is made during ``turn``.

    :raises Deadlock: the chain is longer than ``MAX_CHAIN``.
    """
    context = read_context(turn.context)
    if len(context.chain) >= MAX_CHAIN:
        links = names_of(context.chain)
        end = " -> ".join(links[-4:])
        raise Deadlock(
            f"a chain of {MAX_CHAIN} calls within calls does not end: ... -> {end}", links
        )
    context.chain = (*context.chain, Link(turn.type_name, turn.id, turn.message_name, turn.number))
    return encode(context)


def find_cycle(waiting: Turn, running: Turn) -> Deadlock | None:
    """The error for a turn that would wait for ``running``, if ``running`` waits for that turn."""
    chain = read_context(waiting.context).chain
    for place, link in enumerate(chain):
        if (link.turn, link.type_name, link.id) == (running.number, running.type_name, running.id):
            last = f"{waiting.type_name}/{waiting.id}.{waiting.message_name}"
            links = [*names_of(chain[place:]), last]
            return Deadlock(f"the call would wait for itself: {' -> '.join(links)}", links)
    return None


def names_of(chain: Sequence[Link]) -> list[str]:
    return [str(link) for link in chain]
