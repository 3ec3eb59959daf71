"""What a handler sets for itself (a context variable, the precision of decimals) ends with its
turn.
"""

from __future__ import annotations

import asyncio
import contextvars
import decimal

import pytest

import rio
from tests.server.harness import Cluster

user: contextvars.ContextVar[str] = contextvars.ContextVar("user", default="nobody")


class Plain(rio.Message[tuple[str, int]]):
    """Answered with the user and the precision that the handler finds; then it sets others."""

    name: str


class Async(rio.Message[tuple[str, int]]):
    name: str


class Waiting(rio.Message[tuple[str, int]]):
    name: str


class Chain(rio.Message[tuple[str, int]]):
    name: str


def look_and_set(name: str) -> tuple[str, int]:
    found = user.get(), decimal.getcontext().prec
    user.set(name)
    decimal.setcontext(decimal.Context(prec=3))
    return found


class Desk(rio.ServiceObject):
    async def before_load(self) -> None:
        look_and_set("a hook")

    @rio.handler
    def plain(self, message: Plain) -> tuple[str, int]:
        return look_and_set(message.name)

    @rio.handler
    async def at_once(self, message: Async) -> tuple[str, int]:
        return look_and_set(message.name)

    @rio.handler
    async def waiting(self, message: Waiting) -> tuple[str, int]:
        found = look_and_set(message.name)
        await asyncio.sleep(0)
        assert (user.get(), decimal.getcontext().prec) == (message.name, 3), "its own for all of it"
        return found

    @rio.handler
    async def chain(self, message: Chain) -> tuple[str, int]:
        user.set(message.name)
        return await self.send(Desk, f"{self.id}, next", Plain("nested"))


@pytest.mark.parametrize("first", [Plain, Async, Waiting, Chain])
@pytest.mark.parametrize("second", [Plain, Async, Waiting, Chain])
async def test_what_a_handler_sets_no_other_turn_finds(
    cluster: Cluster, first: type[Plain], second: type[Plain]
) -> None:
    server = await cluster.server(Desk)
    remote = await cluster.client()
    usual = ("nobody", decimal.getcontext().prec)
    for client in (remote, server.client):
        calls = [
            client.send(Desk, id, message(id))
            for id in ("a", "a", "b")
            for message in (first, second, first)
        ]
        assert await asyncio.gather(*calls) == [usual] * len(calls)


async def test_what_the_caller_on_the_same_node_has_set_is_not_there_for_the_handler(
    cluster: Cluster,
) -> None:
    server = await cluster.server(Desk)
    user.set("the caller")
    assert (await server.client.send(Desk, "a", Plain("ada")))[0] == "nobody"
    assert user.get() == "the caller"


async def test_what_was_set_before_the_server_was_started_is_there_for_each_handler(
    cluster: Cluster,
) -> None:
    user.set("of the program")
    server = await cluster.server(Desk)
    for message in (Plain("ada"), Async("ada"), Plain("bob")):
        assert (await server.client.send(Desk, "a", message))[0] == "of the program"
