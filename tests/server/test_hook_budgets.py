"""No hook holds an object for ever: past its time it is cancelled, and then left behind."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterator

import pytest

import rio
from rio.errors import BadRegistration, ConfigurationError, NotActivated, StorageUnavailable
from rio.server import catalog
from tests.server.harness import Cluster, Probe, until

pytestmark = pytest.mark.virtual_time

LOADS = ["before_load", "load", "after_load"]
ENDS = ["before_shutdown", "shutdown"]
TIMES = {"activate_timeout": 0.05, "deactivate_timeout": 0.05}


class Get(rio.Message[str], readonly=True):
    pass


class Slow(rio.ServiceObject):
    """An object whose hook of the name ``self.id`` does not end.

    If the id ends with "!", the hook ignores that it is cancelled.
    """

    async def before_load(self, app: rio.AppData) -> None:
        await self._wait("before_load", app.get(Probe))

    async def load(self, app: rio.AppData) -> None:
        await self._wait("load", app.get(Probe))

    async def after_load(self, app: rio.AppData) -> None:
        await self._wait("after_load", app.get(Probe))

    async def before_shutdown(self, app: rio.AppData) -> None:
        await self._wait("before_shutdown", app.get(Probe))

    async def shutdown(self, app: rio.AppData) -> None:
        await self._wait("shutdown", app.get(Probe))

    async def _wait(self, hook: str, probe: Probe) -> None:
        if self.id.rstrip("!") != hook or probe.gate("open").is_set():
            return
        probe.note(f"{hook} waits")
        while True:
            try:
                await probe.gate("open").wait()
            except asyncio.CancelledError:
                probe.note(f"{hook} cancelled")
                if not self.id.endswith("!"):
                    raise
            else:
                probe.note(f"{hook} ends at last")
                return

    @rio.handler
    def get(self, message: Get) -> str:
        return self.id


class Quick(Slow, deactivate_timeout=30.0, activate_timeout=0.05): ...


class Quickest(Quick, activate_timeout=0.01): ...


@pytest.fixture(autouse=True)
def _short_grace(monkeypatch: pytest.MonkeyPatch, probe: Probe) -> Iterator[None]:
    monkeypatch.setattr(catalog, "ABORT_TIMEOUT", 0.05)
    yield
    probe.gate("open").set()


@pytest.mark.parametrize("stubborn", [False, True])
@pytest.mark.parametrize("hook", LOADS)
async def test_a_hook_that_hangs_fails_the_activation_with_its_name_and_logs_where_it_waits(
    cluster: Cluster, probe: Probe, hook: str, stubborn: bool, caplog: pytest.LogCaptureFixture
) -> None:
    server = await cluster.server(Slow, config=rio.ServerConfig(**TIMES))
    id = hook + "!" * stubborn
    calls = [asyncio.ensure_future(server.client.send(Slow, id, Get())) for _ in range(3)]
    for outcome in await asyncio.gather(*calls, return_exceptions=True):
        assert isinstance(outcome, NotActivated)
        assert f"{hook} took longer than 0.05 s (activate_timeout)" in outcome.message
    assert f"Slow/{id}: {hook} took longer than 0.05 s" in caplog.text
    assert 'await probe.gate("open").wait()' in caplog.text, "the hook's stack"
    placement = await cluster.storage.placement.lookup(rio.ObjectId("Slow", id))
    assert placement is None, "the claim is given back"
    assert cluster.home(Slow, id) is None
    probe.gate("open").set()
    assert await server.client.send(Slow, id, Get()) == id
    await asyncio.sleep(0.02)
    assert cluster.home(Slow, id) is server, "a hook that ends at last undoes nothing"


@pytest.mark.parametrize("stubborn", [False, True])
@pytest.mark.parametrize("hook", ENDS)
async def test_a_shutdown_hook_that_hangs_does_not_keep_the_object(
    cluster: Cluster, probe: Probe, hook: str, stubborn: bool, caplog: pytest.LogCaptureFixture
) -> None:
    server = await cluster.server(Slow, config=rio.ServerConfig(**TIMES))
    id = hook + "!" * stubborn
    await server.client.send(Slow, id, Get())
    await server.client.admin(rio.AdminCommand.shutdown(Slow, id))
    await probe.noted(f"{hook} waits")
    late = asyncio.ensure_future(server.client.send(Slow, id, Get()))
    await probe.noted(f"{hook} cancelled")
    assert await late == id, "the next activation answers"
    assert f"{hook} took longer than 0.05 s (deactivate_timeout)" in caplog.text
    assert 'await probe.gate("open").wait()' in caplog.text
    probe.gate("open").set()
    if stubborn:
        await probe.noted(f"{hook} ends at last")
        await asyncio.sleep(0.02)
    assert cluster.home(Slow, id) is server


async def test_a_hook_that_ends_at_last_does_not_release_the_next_activation(
    cluster: Cluster, probe: Probe, monkeypatch: pytest.MonkeyPatch
) -> None:
    server = await cluster.server(Slow, config=rio.ServerConfig(**TIMES))
    await server.client.send(Slow, "shutdown!", Get())
    placement = cluster.storage.placement
    with monkeypatch.context() as patch:

        async def fail(*_: object) -> None:
            raise StorageUnavailable("on purpose")

        patch.setattr(placement, "release", fail)
        await server.client.admin(rio.AdminCommand.shutdown(Slow, "shutdown!"))
        await until(lambda: cluster.home(Slow, "shutdown!") is None)
    await server.client.send(Slow, "shutdown!", Get())
    probe.gate("open").set()
    await probe.noted("shutdown ends at last")
    await asyncio.sleep(0.05)
    standing = await placement.lookup(rio.ObjectId("Slow", "shutdown!"))
    assert standing is not None
    assert standing.generation == server.generation


async def test_a_release_that_is_slow_is_waited_for(
    cluster: Cluster, probe: Probe, monkeypatch: pytest.MonkeyPatch
) -> None:
    server = await cluster.server(Slow, config=rio.ServerConfig(**TIMES))
    await server.client.send(Slow, "shutdown!", Get())
    placement, releases = cluster.storage.placement, 0
    release = placement.release

    async def slow(object_id: rio.ObjectId, token: int) -> None:
        nonlocal releases
        releases += 1
        await asyncio.sleep(0.5)
        await release(object_id, token)

    monkeypatch.setattr(placement, "release", slow)
    await server.client.admin(rio.AdminCommand.shutdown(Slow, "shutdown!"))
    await until(lambda: cluster.home(Slow, "shutdown!") is None)
    assert releases == 1


async def test_a_drain_ends_although_a_hook_hangs(cluster: Cluster, probe: Probe) -> None:
    server = await cluster.server(Slow, config=rio.ServerConfig(drain_timeout=60.0, **TIMES))
    await server.client.send(Slow, "shutdown!", Get())
    await asyncio.wait_for(server.stop(), 5.0)
    probe.gate("open").set()


async def test_a_class_can_set_its_own_times(cluster: Cluster) -> None:
    server = await cluster.server(Slow, Quick, Quickest)
    for cls, seconds in ((Quick, "0.05"), (Quickest, "0.01")):
        with pytest.raises(NotActivated, match=f"after_load took longer than {seconds} s"):
            await server.client.send(cls, "after_load", Get())
    assert Quickest.__rio_limits__.deactivate_timeout == 30.0


async def test_the_time_is_that_of_all_hooks_together(cluster: Cluster, probe: Probe) -> None:
    class Dawdler(rio.ServiceObject, activate_timeout=0.3):
        async def before_load(self) -> None:
            await asyncio.sleep(0.2)

        async def after_load(self) -> None:
            await asyncio.sleep(0.2)

        @rio.handler
        def get(self, message: Get) -> str:
            return self.id

    server = await cluster.server(Dawdler)
    with pytest.raises(NotActivated, match=r"after_load took longer than 0\.3 s"):
        await server.client.send(Dawdler, "a", Get())


async def test_stopping_ends_a_hook_that_hangs(cluster: Cluster, probe: Probe) -> None:
    server = await cluster.server(Slow)
    call = asyncio.ensure_future(server.client.send(Slow, "load", Get()))
    await probe.noted("load waits")
    await server.stop(drain=False)
    assert probe.count("load cancelled") == 1
    assert isinstance((await asyncio.gather(call, return_exceptions=True))[0], rio.RioError)
    await until(lambda: not server._catalog._lifecycles)


@pytest.mark.parametrize("value", [0, -1.0, float("nan"), float("inf"), "10"])
@pytest.mark.parametrize("name", ["activate_timeout", "deactivate_timeout", "idle_after"])
def test_a_time_that_cannot_be_is_refused(name: str, value: object) -> None:
    with pytest.raises(ConfigurationError, match=f"{name} must be"):
        rio.ServerConfig(**{name: value})  # type: ignore[arg-type]
    with pytest.raises(BadRegistration, match=f"Wrong: {name} must be"):

        class Wrong(rio.ServiceObject, **{name: value}): ...  # type: ignore[arg-type]


async def test_no_budget_runs_while_no_hook_does(
    cluster: Cluster, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.ERROR)
    server = await cluster.server(Slow, config=rio.ServerConfig(**TIMES))
    await server.client.send(Slow, "a", Get())
    await asyncio.sleep(0.2)
    assert await server.client.send(Slow, "a", Get()) == "a"
    assert not caplog.records
