"""The tasks that an object owns end with its activation, however that ends."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

import rio
from rio._core.dispatch import current
from rio.errors import BadRegistration, Deactivated, HandlerFailed
from tests.server.harness import Cluster, Probe, activation, instance, until


class Get(rio.Message[int], readonly=True):
    pass


class Poll(rio.Message[int]):
    pass


class Fail(rio.Message[None]):
    pass


class Start(rio.Message[None]):
    how: str


class Watcher(rio.ServiceObject):
    """An object that polls itself, from the beginning."""

    def __init__(self) -> None:
        self.polls = 0
        self.failed: list[BaseException] = []

    async def after_load(self, app: rio.AppData) -> None:
        self.probe = app.get(Probe)
        if self.id == "polls":
            self.tasks.create(self._poll())
        elif self.id == "polls by itself":
            self.ghost = asyncio.create_task(self._poll())

    async def before_shutdown(self) -> None:
        self.probe.note(f"hook, {len(asyncio.all_tasks())} tasks")
        if self.id.startswith("late"):
            self.tasks.create(self._wait("too late"))

    async def _poll(self) -> None:
        assert current() is None or self.id != "polls", "outside of any turn"
        self.probe.note("poller begins")
        try:
            while True:
                await self.send(Watcher, self.id, Poll())
                await asyncio.sleep(0.001)
        finally:
            self.probe.note("poller ends")

    async def _wait(self, name: str) -> None:
        self.probe.note(f"{name} begins")
        try:
            await self.probe.gate(name).wait()
        except asyncio.CancelledError:
            self.probe.note(f"{name} cancelled")
            if name == "stubborn":
                await self.probe.gate(name).wait()
            raise

    async def _raise(self) -> None:
        raise ValueError("the task's own reason")

    async def _exit(self) -> None:
        raise SystemExit(3)

    async def _interrupt(self) -> None:
        await asyncio.sleep(0)  # so that nobody but the loop is there to catch it
        raise KeyboardInterrupt

    def task_failed(self, task: asyncio.Task[Any], error: BaseException) -> None:
        if self.id == "plain":
            super().task_failed(task, error)
        self.failed.append(error)

    @rio.handler
    def get(self, message: Get) -> int:
        return self.polls

    @rio.handler
    async def poll(self, message: Poll) -> int:
        self.polls += 1
        return self.polls

    @rio.handler
    async def fail(self, message: Fail) -> None:
        raise ZeroDivisionError("on purpose")

    @rio.handler
    async def start(self, message: Start) -> None:
        match message.how:
            case "raise":
                self.tasks.create(self._raise())
            case "exit":
                self.tasks.create(self._exit())
            case "interrupt":
                self.tasks.create(self._interrupt())
            case name:
                self.tasks.create(self._wait(name), name=name)


def pollers(probe: Probe) -> int:
    return probe.count("poller begins") - probe.count("poller ends")


@pytest.mark.parametrize("id", ["polls", "polls by itself"])
async def test_after_five_failures_one_poller_runs(cluster: Cluster, probe: Probe, id: str) -> None:
    server = await cluster.server(Watcher)
    for _ in range(5):
        await server.client.send(Watcher, id, Get())
        await until(lambda: pollers(probe) == 1)
        with pytest.raises(HandlerFailed):
            await server.client.send(Watcher, id, Fail())
        await until(lambda: pollers(probe) == 0)
        begun = probe.count("poller begins")
        await asyncio.sleep(0.02)
        assert probe.count("poller begins") == begun, "the ghost of a task calls nobody to life"
    assert await server.client.send(Watcher, id, Get()) >= 0
    await until(lambda: pollers(probe) == 1)
    if id == "polls by itself":  # what nobody owns has to be ended by hand
        instance(server, Watcher, id).ghost.cancel()


async def test_tasks_end_before_the_hooks(cluster: Cluster, probe: Probe) -> None:
    server = await cluster.server(Watcher)
    await server.client.send(Watcher, "a", Start("waits"))
    await server.client.admin(rio.AdminCommand.shutdown(Watcher, "a"))
    await until(lambda: cluster.home(Watcher, "a") is None)
    assert probe.log[:2] == ["waits begins", "waits cancelled"]
    assert probe.log[2].startswith("hook")


async def test_a_task_that_is_cancelled_before_its_first_step_leaves_nothing(
    cluster: Cluster, probe: Probe
) -> None:
    server = await cluster.server(Watcher)
    await server.client.send(Watcher, "a", Get())
    watcher = instance(server, Watcher, "a")
    task = watcher.tasks.create(watcher._wait("never"))
    task.cancel()
    await asyncio.wait([task])
    assert task.cancelled()
    assert not probe.count("never begins")
    assert not watcher.tasks.running


async def test_an_object_hears_of_a_task_that_failed(
    cluster: Cluster, probe: Probe, caplog: pytest.LogCaptureFixture
) -> None:
    server = await cluster.server(Watcher)
    await server.client.send(Watcher, "plain", Start("raise"))
    watcher = instance(server, Watcher, "plain")
    await until(lambda: watcher.failed)
    assert str(watcher.failed[0]) == "the task's own reason"
    assert "Watcher._raise of Watcher/plain failed" in caplog.text
    assert "ValueError: the task's own reason" in caplog.text
    await server.client.send(Watcher, "plain", Start("exit"))
    await until(lambda: len(watcher.failed) == 2)
    assert "sys.exit(3)" in str(watcher.failed[1]), "the server lives on"
    await server.client.send(Watcher, "plain", Start("interrupt"))
    await until(lambda: len(watcher.failed) == 3)
    assert "a task was ended by a KeyboardInterrupt" in str(watcher.failed[2])
    assert await server.client.send(Watcher, "plain", Get()) == 0, "the server and the object live"


@pytest.mark.parametrize("raised", [RuntimeError, SystemExit, asyncio.CancelledError])
async def test_a_task_failed_that_raises_anything_is_logged(
    cluster: Cluster, caplog: pytest.LogCaptureFixture, raised: type[BaseException]
) -> None:
    class Careless(Watcher):
        def task_failed(self, task: asyncio.Task[Any], error: BaseException) -> None:
            raise raised("careless")

    server = await cluster.server(Careless)
    await server.client.send(Careless, "a", Start("raise"))
    await until(lambda: "task_failed of Careless/a failed" in caplog.text)
    assert await server.client.send(Careless, "a", Get()) == 0


async def test_nothing_can_be_owned_after_the_end(cluster: Cluster, probe: Probe) -> None:
    server = await cluster.server(Watcher)
    await server.client.send(Watcher, "a", Get())
    watcher = instance(server, Watcher, "a")
    tasks, timers = watcher.tasks, watcher.timers
    await server.client.admin(rio.AdminCommand.shutdown(Watcher, "a"))
    await until(lambda: cluster.home(Watcher, "a") is None)
    with pytest.raises(Deactivated):
        tasks.create(watcher._wait("late"))
    with pytest.raises(Deactivated):
        timers.every("late", 1.0, Poll())


async def test_a_shutdown_hook_can_start_no_task(
    cluster: Cluster, probe: Probe, caplog: pytest.LogCaptureFixture
) -> None:
    server = await cluster.server(Watcher)
    await server.client.send(Watcher, "late", Get())
    await server.client.admin(rio.AdminCommand.shutdown(Watcher, "late"))
    await until(lambda: cluster.home(Watcher, "late") is None)
    assert "Deactivated" in caplog.text
    assert not probe.count("too late begins")


async def test_a_task_that_ignores_its_end_delays_the_hooks_by_a_second_and_is_logged(
    cluster: Cluster,
    probe: Probe,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("rio.objects.tasks.CANCEL_TIMEOUT", 0.05)
    server = await cluster.server(Watcher)
    await server.client.send(Watcher, "a", Start("stubborn"))
    await server.client.admin(rio.AdminCommand.shutdown(Watcher, "a"))
    await until(lambda: cluster.home(Watcher, "a") is None)
    assert "stubborn was cancelled and does not end" in caplog.text
    probe.gate("stubborn").set()


async def test_a_server_that_is_stopped_at_once_ends_the_tasks(
    cluster: Cluster, probe: Probe
) -> None:
    server = await cluster.server(Watcher)
    await server.client.send(Watcher, "a", Start("waits"))
    (task,) = activation(server, Watcher, "a").owned_tasks
    await probe.noted("waits begins")
    await server.stop(drain=False)
    assert task.done()
    assert probe.count("waits cancelled") == 1


async def test_an_activation_that_fails_ends_the_tasks_of_its_hooks(
    cluster: Cluster, probe: Probe
) -> None:
    class Broken(Watcher):
        async def after_load(self, app: rio.AppData) -> None:
            self.probe = app.get(Probe)
            self.tasks.create(self._wait("early"))
            await probe.noted("early begins")
            raise ValueError("no")

    server = await cluster.server(Broken)
    with pytest.raises(rio.errors.NotActivated):
        await server.client.send(Broken, "a", Get())
    assert probe.log == ["early begins", "early cancelled"]


async def test_what_is_no_coroutine_is_refused(cluster: Cluster) -> None:
    server = await cluster.server(Watcher)
    await server.client.send(Watcher, "a", Get())
    with pytest.raises(TypeError, match="takes a coroutine"):
        instance(server, Watcher, "a").tasks.create(print)


def test_a_task_failed_that_somebody_would_have_to_await_is_refused() -> None:
    with pytest.raises(BadRegistration, match="write def task_failed"):

        class Wrong(rio.ServiceObject):
            async def task_failed(  # type: ignore[override]
                self, task: asyncio.Task[Any], error: BaseException
            ) -> None: ...
