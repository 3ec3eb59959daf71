"""Servers with older and newer code share the states of their objects, and lose nothing of them."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

import rio
from rio.errors import StateTooNew
from rio.identity import ObjectId
from tests.server.harness import Cluster, until


class Step(rio.Message[int]):
    anew: bool = False


class Give(rio.Message[int]):
    credit: int


class Tally(rio.State):
    n: int = 0


class RichTally(rio.State):
    n: int = 0
    credit: int = 0
    tags: set[str] = msgspec.field(default_factory=set)


class NextTally(rio.State, schema=2):
    number: int = 0


@rio.upcast(NextTally, 1)
def renamed(old: dict[str, Any]) -> dict[str, Any]:
    old["number"] = old.pop("n")
    return old


class Counter(rio.ServiceObject):
    tally: Tally = rio.managed_state()

    @rio.handler
    async def step(self, message: Step) -> int:
        if message.anew:
            self.tally = Tally(self.tally.n)
        self.tally.n += 1
        await self.save_state()
        return self.tally.n


class RichCounter(rio.ServiceObject, type_name="Counter"):
    tally: RichTally = rio.managed_state()

    @rio.handler
    async def step(self, message: Step) -> int:
        self.tally.n += 1
        await self.save_state()
        return self.tally.n

    @rio.handler
    async def give(self, message: Give) -> int:
        self.tally.credit += message.credit
        self.tally.tags.add("rich")
        await self.save_state()
        return self.tally.credit


class NextCounter(rio.ServiceObject, type_name="Counter"):
    tally: NextTally = rio.managed_state()

    @rio.handler
    async def step(self, message: Step) -> int:
        self.tally.number += 1
        await self.save_state()
        return self.tally.number


async def stored(cluster: Cluster, id: str = "a") -> tuple[int, dict[str, Any]]:
    """The schema and the fields of the state, as the storage holds them."""
    loaded = await cluster.storage.state.load_object(ObjectId("Counter", id), 2**62)
    state = loaded.states["tally"]
    return state.schema, msgspec.msgpack.decode(state.data)


async def run_on(
    cluster: Cluster, code: type[rio.ServiceObject], *messages: rio.Message[int]
) -> list[int]:
    """Send these to an object on a server that has this code, and stop the server."""
    server = rio.Server(
        rio.Registry(code), storage=cluster.storage, cluster="local", app_data=cluster.app_data()
    )
    async with server:
        return [await server.client.send(code, "a", message) for message in messages]


@pytest.mark.parametrize("anew", [False, True], ids=["changed", "assigned anew"])
async def test_older_code_keeps_the_fields_that_newer_code_has_saved(
    cluster: Cluster, anew: bool
) -> None:
    assert await run_on(cluster, RichCounter, Give(100), Step()) == [100, 1]
    assert await run_on(cluster, Counter, Step(anew), Step(anew)) == [2, 3]
    assert await run_on(cluster, RichCounter, Step(), Give(1)) == [4, 101]
    assert await run_on(cluster, Counter, Step(anew)) == [5]
    assert await stored(cluster) == (0, {"n": 5, "credit": 101, "tags": ["rich"]})


async def test_a_state_of_an_older_schema_is_brought_to_that_of_the_class(
    cluster: Cluster,
) -> None:
    assert await run_on(cluster, RichCounter, Give(100), Step()) == [100, 1]
    assert await run_on(cluster, NextCounter, Step()) == [2]
    assert await stored(cluster) == (2, {"number": 2, "credit": 100, "tags": ["rich"]})


@pytest.mark.parametrize("first", [Counter, NextCounter])
async def test_a_call_goes_to_the_server_that_knows_the_schema_of_the_state(
    cluster: Cluster, first: type[rio.ServiceObject]
) -> None:
    await run_on(cluster, NextCounter, *[Step()] * 3)
    second = NextCounter if first is Counter else Counter
    await cluster.server(first)
    await cluster.server(second)
    client = await cluster.client()
    for expected in (4, 5, 6):
        assert await client.send("Counter", "a", Step()) == expected
        await client.admin(rio.AdminCommand.shutdown("Counter", "a"))
        await until(lambda: cluster.home(Counter, "a") is None)
    assert await stored(cluster) == (2, {"number": 6})


async def test_a_server_that_does_not_know_the_schema_refuses_the_call_and_saves_nothing(
    cluster: Cluster,
) -> None:
    await run_on(cluster, NextCounter, Step())
    server = await cluster.server(Counter)
    client = await cluster.client()
    with pytest.raises(
        StateTooNew, match=r"Counter/a could not be loaded.*under schema 2, this node knows 1"
    ) as refused:
        await client.send("Counter", "a", Step())
    assert refused.value.detail == [2, 1]
    assert server.statistics().live_objects == 0
    assert await cluster.storage.placement.lookup(ObjectId("Counter", "a")) is None
    assert await stored(cluster) == (2, {"number": 1})
