"""Three servers are rolled to a new version of their program and back, under load.

No call is refused, and no field of the new version is lost although old servers save the states.
"""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from typing import Any, Self

import rio
from tests.cluster.processes.conftest import MakeCluster, on_every_storage
from tests.cluster.processes.harness import Cluster, Node, report
from tests.cluster.processes.versions import Deposit, Grant

OLD = "tests.cluster.processes.versions:old"
NEW = "tests.cluster.processes.versions:new"
OBJECTS = 40


class Tellers:
    """One for each account: sends some messages, waits for the answers, and compares them."""

    def __init__(self, client: rio.Client) -> None:
        self.deposits = Counter[str]()
        self.grants = Counter[str]()
        self.may_grant = asyncio.Event()
        """A server of the new version runs."""
        self.slowest = 0.0
        self._client = client
        self._ends = asyncio.Event()
        self._tasks = asyncio.TaskGroup()

    async def __aenter__(self) -> Self:
        await self._tasks.__aenter__()
        for number in range(OBJECTS):
            self._tasks.create_task(self._work(f"account-{number}"))
        return self

    async def __aexit__(self, *failure: Any) -> None:
        self._ends.set()
        await self._tasks.__aexit__(*failure)

    async def _work(self, id: str) -> None:
        while not self._ends.is_set():
            began = time.monotonic()
            calls = [self._client.send("Account", id, Deposit(), returns=int) for _ in range(3)]
            assert await asyncio.gather(*calls) == [self.deposits[id] + n for n in (1, 2, 3)]
            self.deposits[id] += 3
            if self.may_grant.is_set():
                granted = await self._client.send("Account", id, Grant(), returns=int)
                assert granted == self.grants[id] + 1, "an old server has erased the field"
                self.grants[id] += 1
            self.slowest = max(self.slowest, time.monotonic() - began)
            await asyncio.sleep(0.02)

    async def more(self) -> None:
        """Wait until each account has done something more."""
        before = self.deposits.copy()
        while any(  # noqa: ASYNC110  # other processes notify nobody
            self.deposits[id] <= before[id] + 3 for id in before
        ):
            await asyncio.sleep(0.01)


async def replace(cluster: Cluster, node: Node, registry: str) -> Node:
    fresh = await cluster.start(registry=registry)
    node.terminate()
    assert await node.ended() == 0
    return fresh


@on_every_storage
async def test_a_roll_and_a_roll_back_under_load_lose_nothing(make_cluster: MakeCluster) -> None:
    cluster = await make_cluster("strict")
    nodes = [await cluster.start(registry=OLD) for _ in range(3)]
    async with Tellers(cluster.client) as tellers:
        nodes[0] = await replace(cluster, nodes[0], NEW)
        tellers.may_grant.set()
        await tellers.more()
        for index in (1, 2):
            nodes[index] = await replace(cluster, nodes[index], NEW)
            await tellers.more()
        for index in (0, 1):
            nodes[index] = await replace(cluster, nodes[index], OLD)
            await tellers.more()
        tellers.may_grant.clear()
        await tellers.more()
        nodes[2] = await replace(cluster, nodes[2], OLD)
        await tellers.more()
        await cluster.start(registry=NEW)  # which finds the fields as they were
        tellers.may_grant.set()
        await tellers.more()
    assert min(tellers.grants.values()) > 0
    report(
        f"rolled and rolled back on {cluster.store.name}: {tellers.deposits.total()} calls and"
        f" {tellers.grants.total()} of a new message, 0 refused, 0 fields lost; the slowest took"
        f" {tellers.slowest:.2f} s"
    )
