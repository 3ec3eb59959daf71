"""Objects with tasks, timers and a short life, on nodes that fail, in virtual time.

They come and go all the time: idle after a second, dropped by failures, moved by nodes that are
killed, stopped, stalled and cut off from their storage. Nothing that belongs to one is left behind.
"""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any
from unittest import mock

import pytest

import rio
from rio.errors import RioError
from rio.objects.tasks import Tasks
from rio.server.activation import Activation
from rio.testing import LocalCluster, LocalNode, run
from tests.effort import how_to_replay, seeds
from tests.simulation.replay import run_noted


class Findings:
    """What runs now, and what went wrong."""

    def __init__(self) -> None:
        self.watchers: Counter[tuple[rio.Address, str]] = Counter()
        self.departures: Counter[str | None] = Counter()
        self.beats = 0
        self.wrong: list[str] = []


class Add(rio.Message[int]):
    pass


class Fail(rio.Message[None]):
    pass


class Beat(rio.Message[None]):
    pass


class Total(rio.State):
    value: int = 0
    beats: int = 0


class Watcher(rio.ServiceObject, idle_after=1.0):
    """An object whose task watches over it, and whose heart beats."""

    total: Total = rio.managed_state()

    async def after_load(self) -> None:
        self.findings = self.app_data.get(Findings)
        self.tasks.create(self._watch())
        self.timers.every("beat", 0.05, Beat())

    async def _watch(self) -> None:
        key, findings = (self.address, self.id), self.findings
        findings.watchers[key] += 1
        if findings.watchers[key] > 1:
            findings.wrong.append(f"{findings.watchers[key]} tasks watch over {key}")
        try:
            while True:
                await asyncio.sleep(0.1)
                await self.save_state()
        finally:
            findings.watchers[key] -= 1

    def task_failed(self, task: asyncio.Task[None], error: BaseException) -> None:
        """A save that failed drops the object, and so ends its task."""

    async def before_shutdown(self) -> None:
        self.findings.departures[self.leaving] += 1
        if self.findings.watchers[self.address, self.id]:
            self.findings.wrong.append(f"the task of {self.id} runs in the hook")
        beats = self.total.beats
        await asyncio.sleep(0.1)
        if self.total.beats != beats:
            self.findings.wrong.append(f"the timer of {self.id} goes on in the hook")
        await self.save_state()

    @rio.handler
    async def add(self, message: Add) -> int:
        self.total.value += 1
        await self.save_state()
        return self.total.value

    @rio.handler
    def fail(self, message: Fail) -> None:
        raise ZeroDivisionError("on purpose")

    @rio.handler
    def beat(self, message: Beat) -> None:
        self.total.beats += 1
        self.findings.beats += 1


class Life:
    """A cluster whose nodes fail, and its users."""

    def __init__(self, seed: int) -> None:
        self.rng = random.Random(seed)
        self.findings = Findings()
        self.acknowledged: Counter[str] = Counter()
        app_data = rio.AppData()
        app_data.set(self.findings)
        self.cluster = LocalCluster(
            rio.Registry(Watcher),
            nodes=3,
            app_data=app_data,
            seed=seed,
            config=rio.ServerConfig(max_objects=4),
        )

    async def run(self) -> None:
        async with self.cluster:
            users = [asyncio.create_task(self._use(number)) for number in range(4)]
            await self._break_things()
            self.cluster.heal()
            await asyncio.gather(*users)
            await self._compare()
        await asyncio.sleep(2.0)
        self.findings.wrong += [
            f"{task.get_name()} is left behind"
            for task in asyncio.all_tasks() - {asyncio.current_task()}
        ]
        self.findings.wrong += [f"{key} is watched" for key in +self.findings.watchers]

    async def _use(self, number: int) -> None:
        for _ in range(150):
            await asyncio.sleep(self.rng.expovariate(1 / self.rng.choice((0.05, 0.4))))
            id = str(self.rng.randrange(10))
            message = Fail() if self.rng.random() < 0.1 else Add()
            try:
                await self.cluster.client.send(Watcher, id, message, timeout=5.0)
            except RioError:
                continue
            self.acknowledged[id] += 1

    async def _break_things(self) -> None:
        for _ in range(12):
            await asyncio.sleep(self.rng.uniform(1.0, 3.0))
            node = self.rng.choice(self.cluster.nodes)
            match self.rng.choice(("kill", "stop", "stall", "storage", "lost")):
                case "kill":
                    await self._replace(node, kill=True)
                case "stop":
                    await self._replace(node, kill=False)
                case "stall":
                    self.cluster.stall(node, self.rng.uniform(0.5, 4.0))
                case "storage":
                    await self._cut_off(node)
                case "lost":
                    node.storage.lost_answers = 0.3
                    await asyncio.sleep(1.0)
                    node.storage.heal()

    async def _replace(self, node: LocalNode, *, kill: bool) -> None:
        if node.alive:
            await (self.cluster.kill(node) if kill else self.cluster.stop(node))
        if node.host.down:
            await self.cluster.restart(node)

    async def _cut_off(self, node: LocalNode) -> None:
        node.storage.unavailable = True
        await asyncio.sleep(self.rng.uniform(0.5, 4.0))
        node.storage.heal()

    async def _compare(self) -> None:
        for id, count in self.acknowledged.items():
            value = await self.cluster.client.send(Watcher, id, Add(), timeout=30.0)
            if value <= count:
                self.findings.wrong.append(f"{id} has {value}, and {count} were acknowledged")


@pytest.mark.parametrize("seed", seeds(8))
def test_nothing_that_belongs_to_an_object_is_left_behind_and_nothing_acknowledged_is_lost(
    seed: int,
) -> None:
    life = Life(seed)
    run(life.run(), seed=seed)
    assert not life.findings.wrong, f"{how_to_replay(seed)}\n" + "\n".join(life.findings.wrong[:10])
    assert life.findings.beats
    assert life.findings.departures["idle"], "it was tried"
    assert sum(life.acknowledged.values()) > 100


def _ignore(self: Tasks) -> None: ...


async def _never_ends(self: Any) -> None: ...


@pytest.mark.parametrize(
    ("mutant", "finding"),
    [
        (lambda: mock.patch.multiple(Tasks, cancel=_ignore, end=_never_ends), "watch"),
        (lambda: mock.patch.object(Activation, "_end_tasks", _never_ends), "runs in the hook"),
    ],
    ids=["tasks do not end", "nobody waits for the tasks"],
)
def test_a_planted_mistake_is_found(
    mutant: Callable[[], AbstractContextManager[Any]], finding: str
) -> None:
    for seed in range(4):
        life = Life(seed)
        with mutant():
            run(life.run(), seed=seed)
        if any(finding in wrong for wrong in life.findings.wrong):
            return
    pytest.fail("it went unnoticed")


def test_the_same_seed_takes_the_same_steps() -> None:
    assert run_noted(Life(3).run(), 3) == run_noted(Life(3).run(), 3)
