"""Promises that are easy to overlook: what a reply may be, and a load() of one's own."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

import rio
from rio.errors import BadMessage, BadReply, HandlerFailed
from tests.server.harness import Cluster


class Place(msgspec.Struct):
    row: int
    seat: int = 0


class Find(rio.Message[Place]):
    pass


class List(rio.Message[list[int]]):
    pass


class Seat(rio.Message[bool]):
    number: int


class Misplace(rio.Message[Place]):
    pass


class Look(rio.Message[int]):
    pass


class Stock(rio.State):
    amount: int = 5


class Theatre(rio.ServiceObject):
    @rio.handler
    def find(self, message: Find) -> Place:
        found: Any = {"row": 1}
        return found  # type: ignore[no-any-return]

    @rio.handler
    def list(self, message: List) -> list[int]:
        numbers: Any = {2}
        return numbers  # type: ignore[no-any-return]

    @rio.handler
    def seat(self, message: Seat) -> bool:
        return True

    @rio.handler
    def misplace(self, message: Misplace) -> Place:
        found: Any = {"seat": 1}
        return found  # type: ignore[no-any-return]


class Loaded(rio.ServiceObject):
    stock: Stock = rio.managed_state()

    async def load(self) -> None:
        """Forgets to load the state."""

    @rio.handler
    def look(self, message: Look) -> int:
        return self.stock.amount


@pytest.mark.parametrize("who", ["client", "server.client"])
async def test_a_reply_counts_as_what_it_is_after_it_has_travelled(
    cluster: Cluster, who: str
) -> None:
    server = await cluster.server(Theatre)
    client = server.client if who == "server.client" else await cluster.client()
    assert await client.send(Theatre, "a", Find()) == Place(1)
    assert await client.send(Theatre, "a", List()) == [2]
    with pytest.raises(BadReply, match="row"):
        await client.send(Theatre, "a", Misplace())


async def test_a_load_of_ones_own_that_loads_no_state_is_told_what_to_write(
    cluster: Cluster,
) -> None:
    await cluster.server(Loaded)
    client = await cluster.client()
    with pytest.raises(HandlerFailed, match=r"has to await self\.load_state"):
        await client.send(Loaded, "a", Look())


async def test_a_check_refuses_what_the_server_refuses(cluster: Cluster) -> None:
    await cluster.server(Theatre)
    client = await cluster.client()
    wrong: Any = Seat("5")  # type: ignore[arg-type]
    with pytest.raises(BadMessage, match=r"Expected `int`, got `str` - at `\$\.number`"):
        await client.send(Theatre, "a", wrong)
    with pytest.raises(BadMessage, match=r"Seat\.number: Expected `int`, got `str`"):
        client.send(Theatre, "a", rio.check(wrong))
