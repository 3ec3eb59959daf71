"""Clients and servers with ``latency="low"``: when they keep their loops awake, and when not."""

from __future__ import annotations

import asyncio
import functools
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest

import rio
from rio._core.spin import SPIN_TIME, Spinner
from rio.errors import ConfigurationError, ConnectionLost
from rio.security.tls import CAN_USE_KEYS
from rio.testing import ManualClock
from rio.transport import low_latency
from tests.server.harness import Cluster, Probe, crash, until

pytestmark = pytest.mark.both_loops

NODE = rio.Key.generate("node", "node")
WEB = rio.Key.generate("web", "call")
WAYS = ["tcp", *(["unix"] if sys.platform != "win32" else []), *(["tls"] if CAN_USE_KEYS else [])]


class Add(rio.Message[int]):
    pass


class Wait(rio.Message[int]):
    pass


class Hop(rio.Message[int]):
    through: str


class Later(rio.Message[None]):
    pass


class InThread(rio.Message[int]):
    pass


class Counter(rio.ServiceObject):
    value = 0

    @rio.handler
    def add(self, _: Add) -> int:
        self.value += 1
        self.publish(Add())
        return self.value

    @rio.handler
    async def wait(self, _: Wait, app: rio.AppData) -> int:
        probe = app.get(Probe)
        probe.note("waits")
        await probe.gate("go").wait()
        return self.value

    @rio.handler
    async def hop(self, message: Hop) -> int:
        return await self.send(Counter, message.through, Add())

    @rio.handler
    def later(self, _: Later) -> None:
        self.timers.after("add", 0.01, Add())

    @rio.handler(thread=True)
    def in_thread(self, _: InThread) -> int:
        return self.value


def spinner_of(end: rio.Server | rio.Client) -> Spinner:
    """What keeps the loop of this end awake."""
    spinner = end._router._spinner
    assert spinner is not None
    return spinner


async def begin_to_wait(
    cluster: Cluster, probe: Probe
) -> tuple[rio.Client, Spinner, asyncio.Future[int]]:
    """A client, its spinner, and a call of it that its server works on until "go"."""
    await cluster.server(Counter)
    client = await cluster.client(latency="low")
    call = asyncio.ensure_future(client.send(Counter, "a", Wait()))
    await probe.noted("waits")
    return client, spinner_of(client), call


async def time_out(clock: ManualClock, *spinners: Spinner) -> None:
    """Let nothing happen for so long that the loops may sleep."""
    while any(each.is_spinning for each in spinners):
        clock.advance(2 * SPIN_TIME)
        await asyncio.sleep(0)


@pytest.fixture(autouse=True)
def clock(monkeypatch: pytest.MonkeyPatch) -> ManualClock:
    """That of all spinners: they spin until it is advanced."""
    clock = ManualClock()
    monkeypatch.setattr(low_latency, "Spinner", functools.partial(Spinner, clock))
    return clock


@pytest.fixture
def options(way: str) -> Iterator[tuple[dict[str, Any], dict[str, Any]]]:
    """Those of a server and of a client that are connected in this way."""
    with TemporaryDirectory(prefix="rio-") as folder:
        if way == "unix":
            yield {"address": f"unix:{Path(folder) / 'a'}"}, {}
        elif way == "tls":
            yield {"security": rio.Security([NODE, WEB])}, {"security": rio.Security([WEB])}
        else:
            yield {}, {}


@pytest.mark.parametrize("way", WAYS)
async def test_both_sides_stay_awake_after_a_call_and_sleep_in_the_end(
    cluster: Cluster, clock: ManualClock, options: tuple[dict[str, Any], dict[str, Any]]
) -> None:
    server = await cluster.server(Counter, latency="low", **options[0])
    client = await cluster.client(latency="low", **options[1])
    spinners = [spinner_of(server), spinner_of(client)]
    assert [await client.send(Counter, "a", Add()) for _ in range(3)] == [1, 2, 3]
    assert [each.is_spinning for each in spinners] == [True, True]
    await time_out(clock, *spinners)
    assert [await client.send(Counter, "a", Add()) for _ in range(2)] == [4, 5]
    assert [each.is_spinning for each in spinners] == [True, True]


async def test_a_client_sleeps_when_an_answer_takes_long(
    cluster: Cluster, probe: Probe, clock: ManualClock
) -> None:
    _, spinner, call = await begin_to_wait(cluster, probe)
    assert spinner.is_spinning
    await time_out(clock, spinner)
    probe.gate("go").set()
    assert await call == 0


async def test_a_client_that_awaits_no_answer_sleeps(cluster: Cluster, clock: ManualClock) -> None:
    server = await cluster.server(Counter)
    client = await cluster.client(latency="low")
    async with client.subscribe(Counter, "a", Add) as events:
        spinner = spinner_of(client)
        await time_out(clock, spinner)  # what the subscription has written
        for _ in range(3):
            await server.client.send(Counter, "a", Add())
            await anext(events)
        assert not spinner.is_spinning


async def test_a_server_stays_awake_after_an_answer_that_came_late(
    cluster: Cluster, probe: Probe, clock: ManualClock
) -> None:
    server = await cluster.server(Counter, latency="low")
    client = await cluster.client()
    spinner = spinner_of(server)
    call = asyncio.ensure_future(client.send(Counter, "a", Wait()))
    await probe.noted("waits")
    await time_out(clock, spinner)
    probe.gate("go").set()
    assert await call == 0
    assert spinner.is_spinning


async def test_an_idle_server_makes_no_turns(cluster: Cluster, clock: ManualClock) -> None:
    server = await cluster.server(Counter, latency="low")
    client = await cluster.client(latency="low")
    spinners = [spinner_of(server), spinner_of(client)]
    look, looks = server._connections.look, []
    server._connections.look = lambda: looks.append(look())  # type: ignore[method-assign]
    await until(lambda: len(looks) > 1)  # its own timers wake it, and it sleeps again
    assert not any(each.is_spinning for each in spinners)
    assert await client.send(Counter, "a", Add()) == 1
    await time_out(clock, *spinners)
    looks.clear()
    await until(lambda: len(looks) > 1)
    assert not any(each.is_spinning for each in spinners)


async def test_what_happens_within_a_server_keeps_nothing_awake(cluster: Cluster) -> None:
    server = await cluster.server(Counter, latency="low")
    spinner = spinner_of(server)
    assert await server.client.send(Counter, "a", Add()) == 1
    assert await server.client.send(Counter, "b", Hop("a")) == 2
    assert not spinner.is_spinning


async def test_a_call_of_an_object_to_another_node_keeps_its_server_awake(
    cluster: Cluster, clock: ManualClock
) -> None:
    one = await cluster.server(Counter)
    other = await cluster.server(Counter, latency="low")
    id = await cluster.activated_on(one, Counter, Add())
    assert await other.client.send(Counter, id, Add()) == 2
    spinner = spinner_of(other)
    await time_out(clock, spinner)
    assert await other.client.send(Counter, id, Add()) == 3
    assert spinner.is_spinning


async def test_timers_and_threads_of_objects_have_their_turns_meanwhile(cluster: Cluster) -> None:
    server = await cluster.server(Counter, latency="low")
    client = await cluster.client(latency="low")
    spinners = [spinner_of(server), spinner_of(client)]
    await client.send(Counter, "a", Later())
    while await client.send(Counter, "a", InThread()) == 0:
        assert [each.is_spinning for each in spinners] == [True, True]


async def test_a_client_that_is_closed_keeps_nothing_awake(cluster: Cluster, probe: Probe) -> None:
    client, spinner, call = await begin_to_wait(cluster, probe)
    assert spinner.is_spinning
    await client.close()
    assert not spinner.is_spinning
    with pytest.raises(ConnectionLost):
        await call
    await client.start()
    assert await client.send(Counter, "b", Add()) == 1
    assert spinner.is_spinning


async def test_a_server_that_is_stopped_keeps_nothing_awake(cluster: Cluster) -> None:
    server = await cluster.server(Counter, latency="low")
    client = await cluster.client()
    spinner = spinner_of(server)
    assert await client.send(Counter, "a", Add()) == 1
    assert spinner.is_spinning
    await server.stop()
    assert not spinner.is_spinning


async def test_a_client_sleeps_after_its_calls_were_cancelled(
    cluster: Cluster, probe: Probe, clock: ManualClock
) -> None:
    client, spinner, call = await begin_to_wait(cluster, probe)
    call.cancel()
    await asyncio.wait((call,))
    assert call.cancelled()
    await time_out(clock, spinner)
    assert await client.send(Counter, "b", Add()) == 1


async def test_a_client_reaches_a_server_that_came_back_after_it_was_killed(
    cluster: Cluster,
) -> None:
    client = await cluster.client(latency="low")
    spinner = spinner_of(client)
    first = await cluster.server(Counter, latency="low")
    assert await client.send(Counter, "a", Add()) == 1
    await crash(first)
    second = await cluster.server(Counter, latency="low", address=first.address)
    assert await client.send(Counter, "a", Add()) == 1
    assert spinner_of(second).is_spinning
    assert spinner.is_spinning


async def test_with_the_usual_latency_no_connection_has_a_spinner(cluster: Cluster) -> None:
    server = await cluster.server(Counter)
    client = await cluster.client()
    assert await client.send(Counter, "a", Add()) == 1
    ends = [*server._catalog.dispatcher.connections, *client._router.pool.connections]
    assert [end.spinner for end in ends] == [None, None]
    assert server._router._spinner is client._router._spinner is None


@pytest.mark.parametrize("latency", ["none", "", None, True, 50e-6])
async def test_another_latency_is_refused(cluster: Cluster, latency: Any) -> None:
    text = re.escape(f'latency= takes "normal" or "low", got {latency!r}')
    with pytest.raises(ConfigurationError, match=text):
        rio.Client(cluster.storage, latency=latency)
    with pytest.raises(ConfigurationError, match=text):
        rio.Server(rio.Registry(Counter), storage=cluster.storage, latency=latency)
