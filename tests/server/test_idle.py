"""Objects that nobody uses leave the memory, and no others do."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable
from typing import Any

import msgspec
import pytest

import rio
from rio.errors import ConfigurationError, NotExecuted
from rio.server import idle, memory
from rio.server.segments import Segments
from rio.testing import LocalCluster, run
from tests.server.harness import Cluster, Probe, activation, until


class Departures(dict[str, list[tuple[float, str]]]):
    """When and why each object left, by its id."""

    def note(self, id: str, reason: str) -> None:
        self.setdefault(id, []).append((asyncio.get_running_loop().time(), reason))


class Get(rio.Message[str], readonly=True):
    pass


class Hold(rio.Message[None]):
    seconds: float


class KeepAlive(rio.Message[None]):
    seconds: float


class Fill(rio.Message[None]):
    size: int


class Own(rio.Message[None]):
    what: str
    keep_alive: bool = False


class Ring(rio.Message[None]):
    pass


class Rang(rio.Message):
    pass


class Blob(rio.State):
    data: bytes = b""


class Guest(rio.ServiceObject):
    """An object that notes why it leaves."""

    async def before_shutdown(self) -> None:
        assert self.leaving is not None
        self.app_data.get(Departures).note(self.id, self.leaving)

    def object_weight(self) -> int:
        return 1_000_000 if self.id.startswith("heavy") else 0

    @rio.handler
    def get(self, message: Get) -> str:
        return self.id

    @rio.handler
    async def hold(self, message: Hold) -> None:
        await asyncio.sleep(message.seconds)

    @rio.handler
    def stay(self, message: KeepAlive) -> None:
        self.keep_alive(message.seconds)

    @rio.handler
    def own(self, message: Own) -> None:
        if message.what == "timer":
            self.timers.every("tick", 1.0, Get(), keep_alive=message.keep_alive)
        else:
            self.tasks.create(asyncio.sleep(100.0), keep_alive=message.keep_alive)

    @rio.handler
    def ring(self, message: Ring) -> None:
        self.publish(Rang())


class Lodger(Guest, idle_after=None):
    """An object that stays."""


class Visitor(Guest, idle_after=3.0): ...


Steps = Callable[[LocalCluster, Departures], Awaitable[None]]


def in_virtual_time(
    steps: Steps, *, nodes: int = 1, cluster: str = "local", **settings: Any
) -> None:
    async def main() -> None:
        departures = Departures()
        app_data = rio.AppData()
        app_data.set(departures)
        async with LocalCluster(
            rio.Registry(Guest, Lodger, Visitor),
            nodes=nodes,
            cluster=cluster,
            app_data=app_data,
            config=rio.ServerConfig(**settings),
        ) as local:
            await steps(local, departures)

    run(main())


def seconds() -> float:
    return asyncio.get_running_loop().time()


def live(cluster: LocalCluster) -> int:
    return sum(node.statistics().live_objects for node in cluster.nodes)


@pytest.mark.parametrize("idle_after", [1.0, 5.0, 60.0, 900.0])
def test_an_object_leaves_between_idle_after_and_a_sixteenth_more(idle_after: float) -> None:
    async def steps(cluster: LocalCluster, departures: Departures) -> None:
        used = {}
        for number in range(20):
            await asyncio.sleep(random.Random(number).uniform(0.0, idle_after / 10))
            await cluster.client.send(Guest, str(number), Get())
            used[str(number)] = seconds()
        await asyncio.sleep(idle_after * 1.2 + 2.0)
        for id, at in used.items():
            ((left, reason),) = departures[id]
            assert reason == "idle"
            assert idle_after <= left - at + 0.01 <= idle_after * 17 / 16 + 1.05
        assert live(cluster) == 0

    in_virtual_time(steps, idle_after=idle_after)


def test_an_object_in_use_stays() -> None:
    async def steps(cluster: LocalCluster, departures: Departures) -> None:
        for _ in range(200):
            await cluster.client.send(Guest, "a", Get())
            await asyncio.sleep(4.9)
        assert not departures
        await asyncio.sleep(7.0)
        assert len(departures["a"]) == 1
        assert await cluster.client.send(Guest, "a", Get()) == "a", "and it comes again"

    in_virtual_time(steps, idle_after=5.0)


def test_a_turn_that_runs_and_calls_that_wait_are_a_use() -> None:
    async def steps(cluster: LocalCluster, departures: Departures) -> None:
        client = cluster.client
        calls = [
            asyncio.ensure_future(client.send(Guest, "a", Hold(25.0), timeout=1000.0))
            for _ in range(4)
        ]
        await asyncio.gather(*calls)
        assert not departures

    in_virtual_time(steps, idle_after=2.0)


def test_a_call_that_comes_while_an_object_leaves_is_answered() -> None:
    async def steps(cluster: LocalCluster, departures: Departures) -> None:
        rng = random.Random(1)
        for _ in range(300):
            id = f"{rng.randrange(5)}"
            assert await cluster.client.send(Guest, id, Get()) == id
            await asyncio.sleep(rng.uniform(0.5, 1.2))
        assert sum(map(len, departures.values())) > 50

    in_virtual_time(steps, idle_after=1.0)


def test_a_class_says_for_itself_how_long_it_stays() -> None:
    async def steps(cluster: LocalCluster, departures: Departures) -> None:
        for cls in (Guest, Lodger, Visitor):
            await cluster.client.send(cls, cls.__name__, Get())
        await asyncio.sleep(5.0)
        assert list(departures) == ["Visitor"]
        await asyncio.sleep(20.0)
        assert list(departures) == ["Visitor", "Guest"]
        await asyncio.sleep(100.0)
        assert live(cluster) == 1

    in_virtual_time(steps, idle_after=10.0)


def test_without_a_limit_objects_stay() -> None:
    async def steps(cluster: LocalCluster, departures: Departures) -> None:
        await cluster.client.send(Guest, "a", Get())
        await asyncio.sleep(1_000.0)
        assert not departures

    in_virtual_time(steps, idle_after=None)


def test_keep_alive_keeps_an_object_for_at_least_so_long() -> None:
    async def steps(cluster: LocalCluster, departures: Departures) -> None:
        began = seconds()
        await cluster.client.send(Guest, "a", KeepAlive(100.0))
        await cluster.client.send(Guest, "a", KeepAlive(10.0))
        await asyncio.sleep(200.0)
        ((left, _),) = departures["a"]
        assert 100.0 <= left - began <= 103.0

    in_virtual_time(steps, idle_after=2.0)


def test_a_subscriber_is_a_use() -> None:
    async def steps(cluster: LocalCluster, departures: Departures) -> None:
        async with cluster.client.subscribe(Guest, "a", Rang):
            await asyncio.sleep(100.0)
            assert not departures
        ended = seconds()
        await asyncio.sleep(10.0)
        ((left, _),) = departures["a"]
        assert 2.0 <= left - ended <= 3.3

    in_virtual_time(steps, idle_after=2.0)


@pytest.mark.parametrize("what", ["timer", "task"])
def test_a_timer_or_task_is_a_use_only_if_it_says_so(what: str) -> None:
    async def steps(cluster: LocalCluster, departures: Departures) -> None:
        await cluster.client.send(Guest, "goes", Own(what))
        await cluster.client.send(Guest, "stays", Own(what, keep_alive=True))
        await asyncio.sleep(50.0)
        assert list(departures) == ["goes"]

    in_virtual_time(steps, idle_after=2.0)


def test_none_leaves_while_the_storage_does_not_answer() -> None:
    async def steps(cluster: LocalCluster, departures: Departures) -> None:
        for number in range(10):
            await cluster.client.send(Guest, str(number), Get())
        await asyncio.sleep(2.0)
        cluster.nodes[0].storage.unavailable = True
        await asyncio.sleep(20.0)
        assert not departures
        cluster.nodes[0].storage.heal()
        await asyncio.sleep(5.0)
        assert len(departures) == 10

    in_virtual_time(steps, idle_after=3.0)


def test_none_leaves_after_a_renewal_that_failed() -> None:
    async def steps(cluster: LocalCluster, departures: Departures) -> None:
        for number in range(10):
            await cluster.client.send(Guest, str(number), Get())
        await asyncio.sleep(2.0)
        node = cluster.nodes[0]
        node.storage.unavailable = True
        await asyncio.sleep(2.5)
        assert node.server._catalog.dispatcher.admits, "the lease still lasts"
        assert not departures
        node.storage.heal()

    in_virtual_time(steps, idle_after=3.0, cluster="strict")


def test_at_most_64_leave_at_a_time() -> None:
    class Slow(Guest):
        leaving_now = 0
        most = 0

        async def shutdown(self) -> None:
            Slow.leaving_now += 1
            Slow.most = max(Slow.most, Slow.leaving_now)
            await asyncio.sleep(0.5)
            Slow.leaving_now -= 1

    async def main() -> None:
        app_data = rio.AppData()
        app_data.set(Departures())
        config = rio.ServerConfig(idle_after=2.0)
        async with LocalCluster(
            rio.Registry(Slow), nodes=1, app_data=app_data, config=config
        ) as cluster:
            await asyncio.gather(
                *(cluster.client.send(Slow, str(number), Get()) for number in range(500))
            )
            await asyncio.sleep(3.2)
            assert Slow.most == idle.MAX_LEAVING
            await asyncio.sleep(8.0)
            assert cluster.nodes[0].statistics().live_objects == 0

    run(main())


def test_at_most_1000_leave_in_a_second() -> None:
    async def steps(cluster: LocalCluster, departures: Departures) -> None:
        for _ in range(3):
            await asyncio.gather(
                *(cluster.client.send(Guest, f"{_}.{number}", Get()) for number in range(1000))
            )
        await asyncio.sleep(10.0)
        times = sorted(left for ((left, _),) in departures.values())
        assert len(times) == 3000
        for number in range(1200, len(times)):
            assert times[number] - times[number - 1200] >= 0.99

    in_virtual_time(steps, idle_after=2.0)


def test_an_idle_object_is_given_back_to_the_cluster() -> None:
    async def steps(cluster: LocalCluster, departures: Departures) -> None:
        await cluster.client.send(Guest, "a", Get())
        assert await cluster.home(Guest, "a")
        await asyncio.sleep(5.0)
        assert list(departures) == ["a"]
        placement = await cluster.storage.placement.lookup(rio.ObjectId("Guest", "a"))
        assert placement is None

    in_virtual_time(steps, nodes=2, idle_after=2.0)


def test_a_drain_is_no_time_to_leave_for_being_idle() -> None:
    async def steps(cluster: LocalCluster, departures: Departures) -> None:
        await cluster.client.send(Guest, "a", Get())
        await cluster.stop(0)
        assert [reason for _, reason in departures["a"]] == ["drain"]

    in_virtual_time(steps, idle_after=1.0)


# --- too many objects -----------------------------------------------------------------------------


def test_one_object_more_than_allowed_drives_out_another() -> None:
    async def steps(cluster: LocalCluster, departures: Departures) -> None:
        for number in range(500):
            await cluster.client.send(Guest, str(number), Get())
            assert live(cluster) <= 100 + idle.MAX_LEAVING
        await asyncio.sleep(1.0)
        assert live(cluster) == 100
        assert {reason for ((_, reason),) in departures.values()} == {"memory"}

    in_virtual_time(steps, max_objects=100)


def test_if_all_objects_are_in_use_one_more_is_refused_and_was_not_executed() -> None:
    async def steps(cluster: LocalCluster, departures: Departures) -> None:
        held = [
            asyncio.ensure_future(cluster.client.send(Guest, str(number), Hold(5.0)))
            for number in range(10)
        ]
        await asyncio.sleep(0.1)
        with pytest.raises(NotExecuted, match="holds 10 objects, and none can leave"):
            await cluster.client.send(Guest, "one more", Get(), timeout=1.0)
        assert await cluster.client.send(Guest, "one more", Get()) == "one more", "later it can"
        await asyncio.gather(*held)

    in_virtual_time(steps, max_objects=10)


def test_objects_that_shall_stay_are_not_driven_out() -> None:
    async def steps(cluster: LocalCluster, departures: Departures) -> None:
        for number in range(5):
            await cluster.client.send(Lodger, f"lodger{number}", Get())
            await cluster.client.send(Guest, f"kept{number}", KeepAlive(1000.0))
        for number in range(100):
            await cluster.client.send(Guest, str(number), Get())
        assert not [id for id in departures if id.startswith(("lodger", "kept"))]

    in_virtual_time(steps, max_objects=20)


def test_a_scan_over_many_objects_does_not_drive_out_those_in_use() -> None:
    async def steps(cluster: LocalCluster, departures: Departures) -> None:
        hot, rng = [f"hot{number}" for number in range(300)], random.Random(7)
        for _ in range(3):
            for id in hot:
                await cluster.client.send(Guest, id, Get())
        departures.clear()
        for number in range(5_000):
            await cluster.client.send(Guest, f"scan{number}", Get())
            if number % 5 == 0:
                await cluster.client.send(Guest, rng.choice(hot), Get())
        lost = {id for id in departures if id.startswith("hot")}
        assert len(lost) <= 3, "99 % survive"

    in_virtual_time(steps, max_objects=400)


class Entry:
    def __init__(self) -> None:
        self.used_at = 1.0
        self.used_again = False


def test_those_that_were_used_once_leave_first_and_those_in_use_move_to_the_end() -> None:
    segments = Segments()
    once, often = [Entry() for _ in range(5)], [Entry() for _ in range(5)]
    for entry in (*often, *once):
        segments.add(entry)
    for entry in often:
        entry.used_again = True
    leaving = [segments.next_to_leave(lambda _: True) for _ in range(3)]
    assert leaving == once[:3]
    for entry in once:
        segments.remove(entry)
    often[0].used_at = 2.0
    assert segments.next_to_leave(lambda _: True) is often[1]
    assert segments.next_to_leave(lambda entry: entry is often[4]) is often[4]
    assert segments.next_to_leave(lambda _: False) is None
    assert len(segments) == 5


# --- too little memory ----------------------------------------------------------------------------


def test_heavy_and_long_idle_objects_leave_when_memory_is_short(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    taken = 50_000_000
    monkeypatch.setattr(memory, "resident", lambda: taken)

    async def steps(cluster: LocalCluster, departures: Departures) -> None:
        nonlocal taken
        for number in range(20):
            await cluster.client.send(Guest, f"heavy{number}", Get())
            await cluster.client.send(Guest, f"light{number}", Get())
        await asyncio.sleep(6.0)
        assert not departures
        taken = 105_000_000
        await asyncio.sleep(5.5)
        taken = 50_000_000
        assert 9 <= len(departures) <= 12, "5 MB over, and 5 % of the limit"
        assert all(id.startswith("heavy") for id in departures)
        assert {reason for ((_, reason),) in departures.values()} == {"memory"}
        await asyncio.sleep(20.0)
        assert len(departures) <= 12

    in_virtual_time(steps, max_memory=100_000_000)


def test_an_object_whose_weight_cannot_be_told_is_light(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(memory, "resident", lambda: 200_000_000)
    monkeypatch.setattr(Guest, "object_weight", lambda self: 1 / 0)

    async def steps(cluster: LocalCluster, departures: Departures) -> None:
        await cluster.client.send(Guest, "a", Get())
        await asyncio.sleep(6.0)
        assert "object_weight of Guest/a failed" in caplog.text
        assert list(departures) == ["a"]

    in_virtual_time(steps, max_memory=100_000_000)
    assert "max_memory is 95 MiB and the process takes 190 MiB already" in caplog.text


def test_a_share_of_the_memory_is_that_of_the_control_group_or_the_machine(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Any
) -> None:
    machine, group = tmp_path / "meminfo", tmp_path / "memory.max"
    machine.write_text("MemTotal:       16000 kB\nMemFree: 1 kB\n")
    monkeypatch.setattr(memory, "MACHINE", machine)
    monkeypatch.setattr(memory, "CONTROL_GROUP", (group,))
    assert memory.bytes_of_limit("50%") == 8000 * 1024
    group.write_text("max\n")
    assert memory.bytes_of_limit("50%") == 8000 * 1024
    group.write_text("1000000\n")
    assert memory.bytes_of_limit("80%") == 800_000
    assert memory.bytes_of_limit(123) == 123
    assert memory.resident() > 1_000_000


@pytest.mark.parametrize("limit", [0, -1, 1.5, "80", "0%", "101%", "nan%", "%", "x%"])
def test_a_memory_limit_that_cannot_be_is_refused(limit: Any) -> None:
    with pytest.raises(ConfigurationError, match=r"max_memory must be .*80%"):
        rio.ServerConfig(max_memory=limit)


def test_other_limits_that_cannot_be_are_refused() -> None:
    with pytest.raises(ConfigurationError, match="max_objects must be None or at least 1"):
        rio.ServerConfig(max_objects=0)
    with pytest.raises(ConfigurationError, match="idle_after must be None or at least 1 second"):
        rio.ServerConfig(idle_after=0.5)


async def test_an_object_weighs_what_its_states_take_in_the_storage(cluster: Cluster) -> None:
    server = await cluster.server(Quiet)
    await server.client.send(Quiet, "a", Fill(1000))
    weights = [activation(server, Quiet, "a").weight]
    await server.client.admin(rio.AdminCommand.shutdown(Quiet, "a"))
    await until(lambda: cluster.home(Quiet, "a") is None)
    await server.client.send(Quiet, "a", Get())
    weights.append(activation(server, Quiet, "a").weight)
    assert 1000 < weights[0] == weights[1] < 1100


async def test_reading_many_ids_once_leaves_nothing_behind_when_idle(
    cluster: Cluster, probe: Probe
) -> None:
    server = await cluster.server(Quiet)
    for number in range(200):
        await server.client.send(Quiet, str(number), Get())
    ids = [rio.ObjectId("Quiet", str(number)) for number in range(200)]
    await until(lambda: not server.statistics().live_objects)
    placements = [await cluster.storage.placement.lookup(each) for each in ids]
    assert placements == [None] * len(placements)
    assert not await cluster.storage.state.list_objects("Quiet")


class Quiet(rio.ServiceObject, idle_after=1.0):
    blob: Blob = rio.managed_state()

    @rio.handler
    async def fill(self, message: Fill) -> None:
        self.blob.data = bytes(message.size)
        await self.save_state()

    @rio.handler
    def get(self, message: Get) -> str:
        return self.id


def test_the_limits_of_a_class_are_inherited() -> None:
    class Child(Visitor, activate_timeout=2.0): ...

    assert Child.__rio_limits__.idle_after == 3.0
    assert Child.__rio_limits__.activate_timeout == 2.0
    assert Visitor.__rio_limits__.activate_timeout is msgspec.UNSET


def test_a_call_for_one_object_too_many_is_answered_by_another_server() -> None:
    async def steps(cluster: LocalCluster, departures: Departures) -> None:
        client = cluster.client
        held = []
        while cluster.nodes[0].statistics().live_objects < 10:
            message = Hold(100.0)
            held.append(
                asyncio.ensure_future(client.send(Guest, f"h{len(held)}", message, timeout=200.0))
            )
            await asyncio.sleep(0.01)
        began = seconds()
        for number in range(20):
            assert await client.send(Guest, str(number), Get()) == str(number)
        assert seconds() - began < 20.0
        assert cluster.nodes[0].statistics().live_objects == 10
        for call in held:
            call.cancel()

    in_virtual_time(steps, nodes=2, max_objects=10)
