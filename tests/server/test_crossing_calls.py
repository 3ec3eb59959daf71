"""Chains of calls that cross wait for each other until their deadline; nothing stays behind, and
calls that go one way do not cross.
"""

from __future__ import annotations

import asyncio
import itertools

import pytest

import rio
from rio.errors import CallTimeout, NotExecuted
from tests.server.harness import Cluster

pytestmark = pytest.mark.virtual_time


class Deposit(rio.Message[int]):
    amount: int


class Transfer(rio.Message[None]):
    source: str
    target: str
    amount: int


class Account(rio.ServiceObject):
    def __init__(self) -> None:
        self.balance = 0

    @rio.handler
    def deposit(self, message: Deposit) -> int:
        self.balance += message.amount
        return self.balance

    @rio.handler
    async def transfer(self, message: Transfer) -> None:
        await asyncio.sleep(0.02)  # so that the two surely cross
        await self.send(Account, message.target, Deposit(message.amount))
        self.balance -= message.amount


class Teller(rio.ServiceObject):
    @rio.handler
    async def transfer(self, message: Transfer) -> None:
        await self.send(Account, message.source, Deposit(-message.amount))
        await asyncio.sleep(0.02)
        await self.send(Account, message.target, Deposit(message.amount))


async def test_two_chains_that_cross_end_at_their_deadline_and_the_objects_answer(
    cluster: Cluster,
) -> None:
    await cluster.server(Account)
    client = await cluster.client()
    outcomes = await asyncio.gather(
        client.send(Account, "ada", Transfer("ada", "bob", 1), timeout=0.4),
        client.send(Account, "bob", Transfer("bob", "ada", 1), timeout=0.4),
        return_exceptions=True,
    )
    assert any(isinstance(outcome, CallTimeout) for outcome in outcomes)
    assert all(isinstance(outcome, (CallTimeout, NotExecuted)) for outcome in outcomes)
    for id in ("ada", "bob"):
        await client.send(Account, id, Deposit(0), timeout=2.0)


async def test_calls_that_go_one_way_never_wait_for_each_other(cluster: Cluster) -> None:
    await cluster.server(Account, Teller)
    client = await cluster.client()
    ids = [str(number) for number in range(10)]
    pairs = list(itertools.permutations(ids, 2))[:60]
    await asyncio.gather(
        *(
            client.send(Teller, str(number), Transfer(source, target, 1), timeout=10.0)
            for number, (source, target) in enumerate(pairs)
        )
    )
    balances = [await client.send(Account, id, Deposit(0)) for id in ids]
    assert sum(balances) == 0
