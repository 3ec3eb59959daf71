"""A task of the node may be cancelled at any moment, also before its first step.

Then it runs none of its code, not even its ``finally``. Whatever it was about to do, everything
answers afterwards.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest

import rio
from rio.errors import HandlerFailed
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


class Canceller:
    """Cancels a task of ``rio`` some turns of the loop after it was made."""

    def __init__(self, loop: asyncio.AbstractEventLoop, monkeypatch: pytest.MonkeyPatch) -> None:
        self._loop = loop
        self._create_task = loop.create_task
        self._wanted: Callable[[str], bool] = lambda _: False
        self._delay = 0
        self.seen: list[str] = []
        """The names of the tasks that were made while :meth:`aim` was in force."""
        self.hit = False
        monkeypatch.setattr(loop, "create_task", self._make)

    def aim(self, wanted: Callable[[str], bool], delay: int) -> None:
        """Cancel the next task whose coroutine's name is ``wanted``."""
        self._wanted, self._delay = wanted, delay
        self.seen, self.hit = [], False

    def rest(self) -> None:
        """Cancel nothing."""
        self._wanted = lambda _: False

    def _make(self, coroutine: Any, **options: Any) -> asyncio.Task[Any]:
        task = self._create_task(coroutine, **options)
        name = coroutine.__qualname__
        self.seen.append(name)
        if not self.hit and self._wanted(name):
            self.hit = True
            self._cancel_in(self._delay, task)
        return task

    def _cancel_in(self, delay: int, task: asyncio.Task[Any]) -> None:
        if delay == 0:
            task.cancel()
        else:
            self._loop.call_soon(self._cancel_in, delay - 1, task)


@pytest.fixture
async def canceller(monkeypatch: pytest.MonkeyPatch, _nothing_is_swallowed: None) -> Canceller:
    return Canceller(asyncio.get_running_loop(), monkeypatch)


@pytest.mark.parametrize("delay", MOMENTS)
async def test_an_object_whose_activation_is_cancelled_answers(
    cluster: Cluster, canceller: Canceller, delay: int
) -> None:
    server = await cluster.server(Tally)
    client = await cluster.client()
    canceller.aim(lambda name: name.endswith("activate"), delay)
    calls = [asyncio.ensure_future(client.send(Tally, "a", Bump())) for _ in range(3)]
    assert sorted(await asyncio.gather(*calls)) == [1, 2, 3], (
        "the calls did not run: each came again"
    )
    assert canceller.hit
    assert server.statistics().in_flight == 0


@pytest.mark.parametrize("delay", MOMENTS)
async def test_an_object_whose_deactivation_is_cancelled_answers(
    cluster: Cluster, canceller: Canceller, delay: int
) -> None:
    server = await cluster.server(Tally)
    client = await cluster.client()
    assert await client.send(Tally, "a", Bump()) == 1
    canceller.aim(lambda name: name.endswith("deactivate"), delay)
    await client.admin(rio.AdminCommand.shutdown("Tally", "a"))
    assert await client.send(Tally, "a", Bump()) == 2
    assert canceller.hit
    assert server.statistics().in_flight == 0


async def test_an_object_that_failed_as_the_node_lost_its_lease_answers(
    cluster: Cluster, canceller: Canceller
) -> None:
    server = await cluster.server(Tally)
    client = await cluster.client()
    assert await client.send(Tally, "a", Bump()) == 1
    canceller.aim(lambda name: name.endswith("deactivate"), 0)
    with pytest.raises(HandlerFailed):
        await client.send(Tally, "a", Break())
    assert await client.send(Tally, "a", Bump()) == 2
    assert canceller.hit
    await client.admin(rio.AdminCommand.shutdown("Tally", "a"))
    await until(lambda: not activations(server, Tally))
