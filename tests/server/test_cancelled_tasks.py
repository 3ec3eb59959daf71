"""Others may cancel a task of a node or of a client at any time, before its first step too.

Then the task runs none of its code, not even its ``finally``. Whatever it was about to do,
everything answers afterwards.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable
from contextlib import suppress
from typing import Any

import pytest

import rio
from rio.errors import Gap, HandlerFailed, RioError
from rio.testing import LocalCluster, run
from tests.canceller import Canceller, cancelled
from tests.server.harness import Cluster, activations, until

MOMENTS = range(6)
"""Turns of the event loop after which a task is cancelled; 0 is before its first step."""


class Bump(rio.Message[int]):
    pass


class Break(rio.Message[None]):
    pass


class Bumped(rio.Message[None]):
    total: int


class Total(rio.State):
    value: int = 0


class Tally(rio.ServiceObject):
    total: Total = rio.managed_state()

    async def after_load(self) -> None:
        await asyncio.sleep(0)

    async def before_shutdown(self) -> None:
        await asyncio.sleep(0)

    @rio.handler
    async def bump(self, message: Bump) -> int:
        self.total.value += 1
        await self.save_state()
        self.publish(Bumped(self.total.value))
        return self.total.value

    @rio.handler
    def break_(self, message: Break) -> None:
        raise ZeroDivisionError


# --- one object -----------------------------------------------------------------------------------


@pytest.mark.parametrize("delay", MOMENTS)
async def test_an_object_whose_activation_is_cancelled_answers(
    cluster: Cluster, delay: int
) -> None:
    server = await cluster.server(Tally)
    client = await cluster.client()
    with cancelled("Activation.activate", delay) as canceller:
        calls = [asyncio.ensure_future(client.send(Tally, "a", Bump())) for _ in range(3)]
        assert sorted(await asyncio.gather(*calls)) == [1, 2, 3], "they came again"
    assert canceller.hit
    assert server.statistics().in_flight == 0


@pytest.mark.parametrize("delay", MOMENTS)
async def test_an_object_whose_deactivation_is_cancelled_answers(
    cluster: Cluster, delay: int
) -> None:
    server = await cluster.server(Tally)
    client = await cluster.client()
    assert await client.send(Tally, "a", Bump()) == 1
    with cancelled("Activation.deactivate", delay) as canceller:
        await client.admin(rio.AdminCommand.shutdown("Tally", "a"))
        assert await client.send(Tally, "a", Bump()) == 2
    assert canceller.hit
    assert server.statistics().in_flight == 0


async def test_an_object_that_failed_as_the_node_lost_its_lease_answers(cluster: Cluster) -> None:
    server = await cluster.server(Tally)
    client = await cluster.client()
    assert await client.send(Tally, "a", Bump()) == 1
    with cancelled("Activation.deactivate") as canceller:
        with pytest.raises(HandlerFailed):
            await client.send(Tally, "a", Break())
        assert await client.send(Tally, "a", Bump()) == 2
    assert canceller.hit
    await client.admin(rio.AdminCommand.shutdown("Tally", "a"))
    await until(lambda: not activations(server, Tally))


# --- a whole cluster ------------------------------------------------------------------------------


IDS = [str(number) for number in range(4)]
LONG = 3 * rio.ClusterConfig.local().lease_local
"""Seconds after which a lease that nobody renews has ended."""
CALLERS = {"EventQueue.get", "Server.__aenter__", "Server.stop"}
"""What tasks of the test run: whoever cancels them wants that."""


async def live(name: str, delay: int = 0, nth: int = 1) -> Canceller:
    """Let a cluster do all that it can do while one task is cancelled. Then everything must answer,
    also after the time for which a lease lasts.
    """
    with cancelled(name, delay, nth) as canceller:
        async with LocalCluster(rio.Registry(Tally), nodes=0) as cluster:
            for _ in range(2):
                with suppress(RioError, asyncio.CancelledError):
                    await cluster.start_node()
            events = cluster.client.subscribe(Tally, "0", Bumped)
            await go_through_trouble(cluster, events)
            await everything_answers(cluster, events)
            await asyncio.sleep(LONG)
            await everything_answers(cluster, events)
            await events.close()
    return canceller


async def go_through_trouble(cluster: LocalCluster, events: rio.Subscription[Bumped]) -> None:
    async def attempt(action: Awaitable[Any]) -> None:
        with suppress(RioError):
            await action

    client = cluster.client
    await attempt(events.__aenter__())
    for id in IDS:
        await attempt(client.send(Tally, id, Bump(), timeout=5.0))
    await attempt(client.send(Tally, "1", Break(), timeout=5.0))
    await attempt(client.admin(rio.AdminCommand.shutdown("Tally", "0")))
    cluster.network.break_connections()
    await attempt(client.send(Tally, "0", Bump(), timeout=5.0))
    await cluster.kill(0)
    await attempt(client.send(Tally, "0", Bump(), timeout=5.0))


async def everything_answers(cluster: LocalCluster, events: rio.Subscription[Bumped]) -> None:
    for node in list(cluster.nodes):
        if node.host.down:
            await cluster.restart(node)
    for id in IDS:
        await cluster.client.send(Tally, id, Bump(), timeout=5.0)
    for node in cluster.nodes:
        assert node.alive
        for id in IDS:
            await node.server.client.send(Tally, id, Bump(), timeout=5.0)
        assert node.statistics().in_flight == 0
    await events.__aenter__()
    total = await cluster.client.send(Tally, "0", Bump(), timeout=5.0)
    heard = None
    while heard != total:
        with suppress(Gap):
            heard = (await asyncio.wait_for(anext(events), 5.0)).total


PARTS = 4
"""Tests among which the tasks of a kind are dealt out, so that none takes long."""


@pytest.mark.slow
@pytest.mark.parametrize("delay", MOMENTS)
@pytest.mark.parametrize("part", range(PARTS))
def test_whichever_task_is_cancelled_everything_answers(part: int, delay: int) -> None:
    seen = run(live("")).seen
    assert seen.keys() >= {
        "Server._serve_cluster",
        "Members._refresh",
        "Attachment._attach_in_task",
    }
    for name in sorted(seen.keys() - CALLERS)[part::PARTS]:
        for nth in range(1, min(seen[name], 3) + 1):
            assert run(live(name, delay, nth)).hit, name
