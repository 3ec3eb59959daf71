"""A server that stops loses nothing, and hands on all that it has."""

from __future__ import annotations

import asyncio
import gc
import warnings
from pathlib import Path

import pytest
from msgspec.structs import replace

import rio
from rio.contracts.membership import MemberStatus
from rio.errors import (
    BindFailed,
    ConfigurationError,
    NotExecuted,
    OutcomeUnknown,
    StorageUnavailable,
)
from rio.storage.local import LocalMembershipStorage
from rio.storage.sqlite import SqliteState
from tests.server.harness import Cluster, Probe, RawPeer, activations, until


class Add(rio.Message[int]):
    amount: int = 1


class Get(rio.Message[int], readonly=True):
    pass


class Wait(rio.Message[str]):
    gate: str
    cleans_up: bool = False


class Total(rio.State):
    value: int = 0


class Tally(rio.ServiceObject):
    total: Total = rio.managed_state()

    async def shutdown(self, app: rio.AppData) -> None:
        app.get(Probe).note(f"{self.id} shut down")
        if self.id.startswith("says goodbye to "):
            app.get(Probe).note(
                f"answer: {await self.send(Tally, self.id.removeprefix('says goodbye to '), Add())}"
            )
        if self.id.startswith("hangs"):
            await asyncio.Event().wait()

    @rio.handler
    async def add(self, message: Add) -> int:
        self.total.value += message.amount
        await self.save_state()
        return self.total.value

    @rio.handler
    def get(self, message: Get) -> int:
        return self.total.value

    @rio.handler
    async def wait(self, message: Wait, app: rio.AppData) -> str:
        probe = app.get(Probe)
        probe.note(f"{self.id} waits")
        try:
            await probe.gate(message.gate).wait()
        finally:
            if message.cleans_up:
                probe.note(f"{self.id} cleans up")
                await asyncio.sleep(0.01)
                probe.note(f"{self.id} has cleaned up")
        return str(self.address)


async def status(cluster: Cluster, server: rio.Server) -> MemberStatus | None:
    return (await cluster.storage.membership.snapshot()).status_of(server.generation)


@pytest.mark.both_loops
async def test_no_call_fails_while_servers_stop_one_after_the_other(cluster: Cluster) -> None:
    servers = await cluster.nodes(3, Tally)
    clients = [await cluster.client() for _ in range(3)]
    ids = [f"t{number}" for number in range(60)]
    acknowledged = dict.fromkeys(ids, 0)
    stopping = False

    async def load(client: rio.Client, mine: list[str]) -> None:
        round_ = 0
        while not stopping or round_ < 3:
            round_ += 1
            for id, value in zip(
                mine,
                await asyncio.gather(*(client.send(Tally, id, Add()) for id in mine)),
                strict=True,
            ):
                assert value == acknowledged[id] + 1
                acknowledged[id] = value

    async with asyncio.TaskGroup() as group:
        for number, client in enumerate(clients):
            group.create_task(load(client, ids[number::3]))
        for server in servers:
            before = sum(acknowledged.values())
            await until(lambda before=before: sum(acknowledged.values()) > before + 200)
            if server is servers[-1]:
                stopping = True
            else:
                await server.stop()
    assert all(value > 0 for value in acknowledged.values())
    for id in ids:
        assert await clients[0].send(Tally, id, Get()) == acknowledged[id]
    assert [await status(cluster, server) for server in servers] == [
        MemberStatus.LEFT,
        MemberStatus.LEFT,
        MemberStatus.ACTIVE,
    ]


async def test_objects_are_shut_down_released_and_the_member_has_left(
    cluster: Cluster, probe: Probe
) -> None:
    server = await cluster.server(Tally)
    client = await cluster.client()
    await asyncio.gather(*(client.send(Tally, f"t{number}", Add()) for number in range(200)))
    await server.stop()
    assert sorted(probe.log) == sorted(f"t{number} shut down" for number in range(200))
    assert await cluster.storage.placement.owned_by(server.generation) == []
    assert await status(cluster, server) is MemberStatus.LEFT
    assert server.statistics().live_objects == server.statistics().connections == 0


async def test_the_running_turn_ends_here_and_what_waits_behind_it_goes_to_another_node(
    cluster: Cluster, probe: Probe
) -> None:
    first = await cluster.server(Tally)
    await first.client.send(Tally, "a", Add())
    second = await cluster.server(Tally)
    client = await cluster.client()
    running = asyncio.ensure_future(client.send(Tally, "a", Wait("go")))
    await probe.noted("a waits")
    queued = [asyncio.ensure_future(client.send(Tally, "a", Add())) for _ in range(10)]
    await until(lambda: first.statistics().in_flight == 11)
    stop = asyncio.ensure_future(first.stop())
    await until(lambda: first._catalog.draining)
    probe.gate("go").set()
    assert await running == first.address
    await stop
    assert sorted(await asyncio.gather(*queued)) == list(range(2, 12))
    assert cluster.home(Tally, "a") is second


async def test_new_objects_go_elsewhere_as_soon_as_a_server_drains(
    cluster: Cluster, probe: Probe
) -> None:
    first = await cluster.server(Tally)
    client = await cluster.client()
    running = asyncio.ensure_future(client.send(Tally, "busy", Wait("go")))
    await probe.noted("busy waits")
    second = await cluster.server(Tally)
    stop = asyncio.ensure_future(first.stop())
    await until(lambda: first._catalog.draining)
    assert set(
        await asyncio.gather(*(client.send(Tally, f"n{number}", Add()) for number in range(50)))
    ) == {1}
    assert len(activations(second, Tally)) == 50
    probe.gate("go").set()
    assert await running == first.address
    await stop


async def test_a_shutdown_hook_may_call_other_objects_which_come_to_life_elsewhere(
    cluster: Cluster, probe: Probe
) -> None:
    first = await cluster.server(Tally)
    await first.client.send(Tally, "says goodbye to bob", Add())
    await first.client.send(Tally, "bob", Add())
    second = await cluster.server(Tally)
    await first.stop()
    assert probe.count("answer: 2") == 1
    assert cluster.home(Tally, "bob") is second


async def test_a_shutdown_hook_that_finds_nobody_does_not_hold_the_last_server(
    cluster: Cluster, probe: Probe
) -> None:
    server = await cluster.server(Tally)
    await server.client.send(Tally, "says goodbye to bob", Add())
    await server.stop()
    assert probe.log == ["says goodbye to bob shut down"]
    assert await status(cluster, server) is MemberStatus.LEFT


async def test_a_turn_that_runs_during_the_drain_may_call_other_objects(
    cluster: Cluster, probe: Probe
) -> None:
    class Ask(rio.Message[int]):
        to: str

    class Asker(rio.ServiceObject):
        @rio.handler
        async def ask(self, message: Ask, app: rio.AppData) -> int:
            app.get(Probe).note("asks")
            await app.get(Probe).gate("ask").wait()
            return await self.send(Tally, message.to, Add())

    first = await cluster.server(Asker, Tally)
    client = await cluster.client()
    call = asyncio.ensure_future(client.send(Asker, "a", Ask("t")))
    await probe.noted("asks")
    second = await cluster.server(Asker, Tally)
    stop = asyncio.ensure_future(first.stop())
    await until(lambda: first._catalog.draining)
    probe.gate("ask").set()
    assert await call == 1
    await stop
    assert cluster.home(Tally, "t") is second


async def test_calls_that_a_stopped_server_has_not_read_go_elsewhere(
    cluster: Cluster, probe: Probe
) -> None:
    """The requests were on their way when the server said that it stops."""
    for _ in range(20):
        first, second = await cluster.nodes(2, Tally)
        client = await cluster.client()
        stop = asyncio.ensure_future(first.stop())
        calls = []
        while not stop.done():
            calls.append(asyncio.ensure_future(client.send(Tally, f"t{len(calls) % 50}", Add())))
            await asyncio.sleep(0)
        calls += [
            asyncio.ensure_future(client.send(Tally, f"t{number}", Add())) for number in range(50)
        ]
        assert all(value > 0 for value in await asyncio.gather(*calls))
        await second.stop()


async def test_a_peer_that_does_not_close_does_not_hold_the_server(
    cluster: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("rio.server.connections.FAREWELL_TIMEOUT", 0.05)
    server = await cluster.server(Tally)
    async with (
        await RawPeer.connect(server) as greeted,
        await RawPeer.connect(server, greet=False) as silent,
    ):
        await server.stop()
        assert await greeted.closed()
        assert await silent.closed()


async def test_a_handler_that_does_not_end_is_cancelled_and_its_caller_is_told_that_it_may_have_run(
    cluster: Cluster, probe: Probe
) -> None:
    server = await cluster.server(Tally, config=rio.ServerConfig(drain_timeout=0.05))
    client = await cluster.client()
    call = asyncio.ensure_future(client.send(Tally, "a", Wait("never", cleans_up=True)))
    await probe.noted("a waits")
    queued = asyncio.ensure_future(client.send(Tally, "a", Add(), timeout=1))
    await until(lambda: server.statistics().in_flight == 2)
    await server.stop()
    assert probe.log == ["a waits", "a cleans up", "a has cleaned up"], (
        "stop() has waited for the handler"
    )
    with pytest.raises(OutcomeUnknown):
        await call
    with pytest.raises(NotExecuted):
        await queued
    assert await status(cluster, server) is MemberStatus.LEFT


async def test_a_shutdown_hook_that_does_not_end_does_not_hold_the_server(
    cluster: Cluster, probe: Probe
) -> None:
    server = await cluster.server(Tally, config=rio.ServerConfig(drain_timeout=0.05))
    client = await cluster.client()
    await client.send(Tally, "hangs", Add())
    await server.stop()
    assert probe.log == ["hangs shut down"]
    assert await status(cluster, server) is MemberStatus.LEFT


async def test_a_server_that_drains_can_be_hurried(cluster: Cluster, probe: Probe) -> None:
    server = await cluster.server(Tally)
    client = await cluster.client()
    call = asyncio.ensure_future(client.send(Tally, "a", Wait("never")))
    await probe.noted("a waits")
    stopping = asyncio.ensure_future(server.stop())
    await until(
        lambda: (
            server.statistics().in_flight == 1
            and server.members.status_of(server.generation) is MemberStatus.DRAINING
        )
    )
    await server.stop(drain=False)
    await stopping
    with pytest.raises(OutcomeUnknown):
        await call


async def test_run_returns_when_it_is_asked_to_stop(cluster: Cluster) -> None:
    server = await cluster.server(Tally)
    running = asyncio.ensure_future(server.run(handle_signals=False))
    await asyncio.sleep(0)
    server.request_stop()
    await running
    assert await status(cluster, server) is MemberStatus.LEFT


async def test_an_admin_command_has_a_server_drain_and_stop(cluster: Cluster, probe: Probe) -> None:
    first, second = await cluster.nodes(2, Tally)
    running = asyncio.ensure_future(first.run(handle_signals=False))
    client = await cluster.client()
    await client.send(Tally, "a", Add())
    await client.admin(rio.AdminCommand.server_exit(first.address))
    await running
    assert await status(cluster, first) is MemberStatus.LEFT
    assert await status(cluster, second) is MemberStatus.ACTIVE
    assert await client.send(Tally, "a", Add()) == 2


async def test_stopping_twice_is_stopping_once_and_both_wait_for_the_end(
    cluster: Cluster, probe: Probe
) -> None:
    server = await cluster.server(Tally)
    client = await cluster.client()
    waits = asyncio.ensure_future(client.send(Tally, "a", Wait("go")))
    await probe.noted("a waits")
    stops = [asyncio.ensure_future(server.stop()) for _ in range(3)]
    await until(lambda: server._catalog.draining)
    assert not any(stop.done() for stop in stops)
    probe.gate("go").set()
    await asyncio.gather(*stops)
    assert await waits == server.address
    assert await status(cluster, server) is MemberStatus.LEFT
    await server.stop()


async def test_a_storage_that_is_away_does_not_keep_a_server_from_stopping(
    cluster: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    server = await cluster.server(Tally)
    client = await cluster.client()
    await client.send(Tally, "a", Add())

    async def fail(*_: object, **__: object) -> None:
        raise StorageUnavailable("away")

    with monkeypatch.context() as patch:
        patch.setattr(LocalMembershipStorage, "set_status", fail)
        await server.stop()
    assert server.statistics().live_objects == 0


# --- servers that never started -------------------------------------------------------------------


async def test_an_address_in_use_is_told_and_leaves_nothing(cluster: Cluster) -> None:
    server = await cluster.server(Tally)
    before = await cluster.storage.membership.snapshot()
    with pytest.raises(
        BindFailed,
        match=f"cannot listen on {server.address}: .*choose another address, or port 0 for any",
    ) as caught:
        async with rio.Server(rio.Registry(Tally), storage=cluster.storage, address=server.address):
            pass
    assert isinstance(caught.value, OSError)
    assert (await cluster.storage.membership.snapshot()).version == before.version
    assert await server.client.send(Tally, "a", Add()) == 1


async def test_a_server_that_could_not_join_has_released_everything(
    cluster: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def fail(*_: object) -> None:
        raise StorageUnavailable("away")

    with monkeypatch.context() as patch:
        patch.setattr(LocalMembershipStorage, "register", fail)
        failed = rio.Server(rio.Registry(Tally), storage=cluster.storage)
        with pytest.raises(StorageUnavailable):
            async with failed:
                pass
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        address = failed.address
        del failed
        gc.collect()
    server = await cluster.server(Tally, address=address)
    assert server.address == address


async def test_a_server_that_is_forgotten_warns(cluster: Cluster) -> None:
    server = rio.Server(rio.Registry(Tally), storage=cluster.storage)
    await server.prepare()
    await server.bind()
    with pytest.warns(ResourceWarning, match="was never stopped: use it as `async with`"):
        server.__del__()
    await server.stop()


async def test_a_client_that_is_forgotten_warns(cluster: Cluster) -> None:
    client = rio.Client(cluster.storage)
    await client.start()
    with pytest.warns(ResourceWarning, match="was never closed: use it as `async with`"):
        client.__del__()
    await client.close()


def test_a_server_without_storage_or_registry_is_refused() -> None:
    with pytest.raises(
        ConfigurationError, match="there is no storage for membership, placement, state: name one"
    ):
        rio.Server(rio.Registry(Tally))
    with pytest.raises(ConfigurationError, match=r"a server takes a rio\.Registry"):
        rio.Server(Tally, storage="memory://")  # type: ignore[arg-type]


async def test_listening_on_every_interface_needs_an_address_for_the_others(
    cluster: Cluster,
) -> None:
    with pytest.raises(
        ConfigurationError, match="say with advertise= which address the others shall use"
    ):
        await cluster.server(Tally, address="0.0.0.0:0", insecure=True)
    server = await cluster.server(
        Tally, address="0.0.0.0:0", advertise="127.0.0.1:0", insecure=True
    )
    client = await cluster.client()
    assert await client.send(Tally, "a", Add()) == 1
    assert server.address.startswith("127.0.0.1:")
    assert not server.address.endswith(":0")


async def test_each_role_may_have_a_back_end_of_its_own(cluster: Cluster, sqlite_url: str) -> None:
    async with (
        rio.open_storage(sqlite_url) as file,
        rio.open_storage(f"{sqlite_url}.members") as members,
    ):
        mixed = replace(file, membership=members.membership)
        server = await cluster.server(Tally, storage=mixed)
        assert await server.client.send(Tally, "a", Add()) == 1
        await server.stop()
        other = await cluster.server(
            Tally,
            storage=None,
            membership=mixed.membership,
            placement=mixed.placement,
            state=mixed.state,
        )
        assert await other.client.send(Tally, "a", Add()) == 2
        await other.stop()


@pytest.mark.parametrize(
    ("in_memory", "named"),
    [
        ({"membership", "placement"}, "the membership is in memory and SqliteState is not"),
        ({"placement"}, "the placement is in memory and SqliteState is not"),
        ({"placement", "state"}, ""),
        ({"membership"}, "the membership is in memory and SqliteObjectPlacement is not"),
        ({"membership", "state"}, "the membership is in memory and SqliteObjectPlacement is not"),
        ({"state"}, ""),
    ],
)
def test_what_fences_a_state_does_not_forget_before_the_state_does(
    sqlite_url: str, in_memory: set[str], named: str
) -> None:
    registry = rio.Registry(Tally)
    urls = dict.fromkeys(in_memory, "memory://")
    if not named:
        rio.Server(registry, storage=sqlite_url, **urls)
        return
    with pytest.raises(ConfigurationError, match=named):
        rio.Server(registry, storage=sqlite_url, **urls)


class Kept(rio.State):
    value: int = 0


def test_a_state_of_its_own_does_not_outlive_what_fences_it(tmp_path: Path) -> None:
    class Keeper(rio.ServiceObject):
        kept: Kept = rio.managed_state(storage=SqliteState(tmp_path / "kept.db"))

    with pytest.raises(ConfigurationError, match="SqliteState is not"):
        rio.Server(rio.Registry(Keeper), storage="memory://")


async def test_a_stop_that_is_cancelled_still_closes_everything(
    cluster: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    server = await cluster.server(Tally)
    leaving, go_on, leave = asyncio.Event(), asyncio.Event(), server._cluster.leave

    async def slow() -> None:
        leaving.set()
        await go_on.wait()
        await leave()

    monkeypatch.setattr(server._cluster, "leave", slow)
    stopping = asyncio.ensure_future(server.stop())
    await leaving.wait()
    stopping.cancel()
    await asyncio.sleep(0)
    go_on.set()
    with pytest.raises(asyncio.CancelledError):
        await stopping
    with pytest.raises(ConnectionRefusedError):
        await RawPeer.connect(server)
