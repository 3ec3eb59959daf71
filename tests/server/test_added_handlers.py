"""Handlers that are defined outside of their class, and added by the registry."""

from __future__ import annotations

from typing import Any

import pytest

import rio
from rio.errors import BadRegistration
from tests.server.harness import Cluster


class Ping(rio.Message[str]):
    text: str


class Count(rio.Message):  # declares no reply: that of the handler counts
    pass


class Ask(rio.Message[str]):
    pass


class Board(rio.ServiceObject):
    @rio.handler
    async def ask(self, message: Ask) -> str:
        neighbour: Any = self.ref(Board, "neighbour")
        answer: str = await neighbour.ping(Ping("from inside"))
        return answer


def ping(board: Board, message: Ping) -> str:
    return f"{board.id}: {message.text}"


def count(board: Board, message: Count) -> set[int]:
    return {1, 2}


def make_registry() -> rio.Registry:
    registry = rio.Registry(Board)
    registry.add_handler(Board, ping)
    registry.add_handler(Board, count)
    return registry


async def test_references_have_the_handlers_that_a_registry_has_added(cluster: Cluster) -> None:
    client = await cluster.client()
    board: Any = client.ref(Board, "b")
    kept: Any = client.ref(Board, "c")
    assert not hasattr(kept, "none")
    server = await cluster.server(registry=make_registry())
    inside: Any = server.client.ref(Board, "b")
    assert await client.ref(Board, "b").ask(Ask()) == "neighbour: from inside"
    for each in (board, inside, client.ref(Board, "b")):
        assert await each.ping(Ping("hello")) == "b: hello"
        assert {"ask", "ping", "count"} <= set(dir(each))
    assert await inside.count(Count()) == {1, 2}
    with pytest.raises(AttributeError, match="It has: ask, ping, count"):
        _ = inside.pong


def test_an_added_handler_needs_a_name_that_is_free() -> None:
    def ask(board: Board, message: Ping) -> str:
        return ""

    def publish(board: Board, message: Ping) -> str:
        return ""

    registry = rio.Registry(Board)
    with pytest.raises(BadRegistration, match=r"two handlers named 'ask', <handler Board\.ask .*"):
        registry.add_handler(Board, ask)
    with pytest.raises(BadRegistration, match=r"Board\.publish: 'publish' is taken by"):
        registry.add_handler(Board, publish)


async def test_a_subclass_does_not_have_what_was_added_to_its_base(cluster: Cluster) -> None:
    class Sub(Board):
        pass

    make_registry()
    client = await cluster.client()
    assert not hasattr(client.ref(Sub, "s"), "ping")
