"""A server starts once and ends once, whatever its storage and its callers do meanwhile."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import suppress
from typing import Any

import pytest

import rio
from rio.contracts.membership import MemberStatus
from rio.errors import JoinFailed, NodeEvicted, StorageUnavailable
from rio.storage.local import LocalMembershipStorage
from tests.server.harness import Cluster, Probe, until

pytestmark = pytest.mark.virtual_time


class Wait(rio.Message[None]):
    pass


class Sleeper(rio.ServiceObject):
    @rio.handler
    async def wait(self, message: Wait, app: rio.AppData) -> None:
        app.get(Probe).note("waits")
        await app.get(Probe).gate("wake").wait()


Fault = Callable[..., Any]


async def raise_type_error(*_: object, **__: object) -> None:
    raise TypeError("a third party's mistake")


async def raise_cancelled(*_: object, **__: object) -> None:
    raise asyncio.CancelledError


@pytest.fixture(params=["raises", "is cancelled", "never ends"])
async def fault(request: pytest.FixtureRequest) -> AsyncIterator[Fault]:
    """What a call does instead of what it should."""
    released = asyncio.Event()

    async def never_end(*_: object, **__: object) -> None:
        while not released.is_set():
            with suppress(asyncio.CancelledError):
                await released.wait()

    yield {"raises": raise_type_error, "is cancelled": raise_cancelled, "never ends": never_end}[
        request.param
    ]
    released.set()
    await asyncio.sleep(0.01)


async def status(cluster: Cluster, server: rio.Server) -> MemberStatus | None:
    return (await cluster.storage.membership.snapshot()).status_of(server.generation)


async def is_listening(server: rio.Server) -> bool:
    host, port = rio.Address.parse(server.address)
    try:
        _, writer = await asyncio.open_connection(host, port)
    except OSError:
        return False
    writer.transport.abort()
    return True


# --- while it serves ------------------------------------------------------------------------------


async def test_a_wait_for_changes_that_fails_costs_nothing_but_the_news(
    fault: Fault, cluster: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    waits = 0

    async def fail(*_: object) -> None:
        nonlocal waits
        waits += 1
        await fault()

    monkeypatch.setattr(LocalMembershipStorage, "wait_for_change", fail)
    server = await cluster.server(Sleeper, cluster=rio.ClusterConfig.local())
    await until(lambda: waits >= 3)
    other = await cluster.server(Sleeper, cluster=rio.ClusterConfig.local())
    await until(lambda: server.members.find(other.generation))
    assert server.ready


# --- the end --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("owner", "step"),
    [
        ("_cluster", "drain"),
        ("_catalog", "abort"),
        ("_cluster", "leave"),
        ("_links", "close"),
        ("_client", "close"),
        ("_connections", "close"),
        ("_versions", "close"),
    ],
)
async def test_a_stop_ends_whatever_one_of_its_steps_does(
    fault: Fault, cluster: Cluster, monkeypatch: pytest.MonkeyPatch, owner: str, step: str
) -> None:
    monkeypatch.setattr("rio.server.ending.STEP_TIMEOUT", 0.1)
    server = await cluster.server(Sleeper, config=rio.ServerConfig(drain_timeout=0.1))
    running = asyncio.ensure_future(server.run(handle_signals=False))
    owned = getattr(server, owner)
    with monkeypatch.context() as patch:
        if step == "close" and owner == "_client":
            patch.setattr(type(owned), step, fault)
        else:
            patch.setattr(owned, step, fault)
        async with asyncio.timeout(5):
            await server.stop()
    await server.stop()
    await running
    await server._client.close()  # its own close() may have been the step that failed
    assert not await is_listening(server)
    assert server._links._closed or owner == "_links"
    assert await status(cluster, server) is MemberStatus.LEFT or step == "leave"


@pytest.mark.parametrize("fault", [raise_type_error, raise_cancelled])
async def test_a_drain_that_fails_does_not_keep_a_server_from_closing(
    cluster: Cluster, monkeypatch: pytest.MonkeyPatch, fault: Fault
) -> None:
    server = await cluster.server(Sleeper)
    monkeypatch.setattr(server._catalog, "deactivate_all", fault)
    await server.stop()
    assert not await is_listening(server)
    assert await status(cluster, server) is MemberStatus.LEFT


async def test_a_membership_that_fails_does_not_keep_a_server_from_closing(
    fault: Fault, cluster: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = rio.ClusterConfig.local()
    server = await cluster.server(Sleeper, cluster=settings)
    with monkeypatch.context() as patch:
        patch.setattr(LocalMembershipStorage, "set_status", fault)
        await server.stop()
    assert not await is_listening(server)
    await server.stop()


@pytest.mark.parametrize("turns", range(6))
async def test_a_stop_that_is_cancelled_twice_goes_on_and_all_others_return(
    cluster: Cluster, turns: int
) -> None:
    server = await cluster.server(Sleeper)
    client = await cluster.client()
    running = asyncio.ensure_future(server.run(handle_signals=False))
    call = asyncio.ensure_future(client.send(Sleeper, "a", Wait()))
    await cluster.probe.noted("waits")
    stopping = asyncio.ensure_future(server.stop())
    other = asyncio.ensure_future(server.stop())
    await asyncio.sleep(0.01)
    for _ in range(2):
        stopping.cancel()
        for _ in range(turns):
            await asyncio.sleep(0)
    await asyncio.wait((stopping,))
    assert stopping.cancelled()
    async with asyncio.timeout(5):
        await running
        await other
        await server.stop()
    assert not await is_listening(server)
    assert await status(cluster, server) is MemberStatus.LEFT
    await asyncio.wait((call,))
    assert call.exception() is not None


@pytest.mark.parametrize("hurries", range(8))
async def test_a_server_can_be_hurried_at_every_turn_of_its_drain(
    cluster: Cluster, hurries: int
) -> None:
    server = await cluster.server(Sleeper, config=rio.ServerConfig(drain_timeout=0.0))
    stopping = asyncio.ensure_future(server.stop())
    for _ in range(hurries):
        await asyncio.sleep(0)
    await server.stop(drain=False)
    await stopping


# --- the start ------------------------------------------------------------------------------------


@pytest.fixture
def slow_registration(monkeypatch: pytest.MonkeyPatch) -> asyncio.Event:
    """A storage that takes its time to register members; set once one registers."""
    register = LocalMembershipStorage.register
    begun = asyncio.Event()

    async def take_time(self: LocalMembershipStorage, *args: Any) -> Any:
        begun.set()
        await asyncio.sleep(0.05)
        return await register(self, *args)

    monkeypatch.setattr(LocalMembershipStorage, "register", take_time)
    return begun


async def test_a_server_that_is_stopped_while_it_starts_has_not_started(
    cluster: Cluster, slow_registration: asyncio.Event
) -> None:
    server = rio.Server(rio.Registry(Sleeper), storage=cluster.storage, cluster="local")
    starting = asyncio.ensure_future(server.__aenter__())
    await slow_registration.wait()
    await server.stop()
    with pytest.raises(RuntimeError, match="was stopped while it started"):
        await starting
    await asyncio.sleep(0.1)
    assert not await is_listening(server)
    assert await status(cluster, server) is not MemberStatus.ACTIVE
    await server.closed


@pytest.mark.parametrize("turns", range(40))
async def test_a_stop_at_any_turn_of_the_start_leaves_no_zombie(
    cluster: Cluster, turns: int
) -> None:
    server = rio.Server(rio.Registry(Sleeper), storage=cluster.storage, cluster="local")
    starting = asyncio.ensure_future(server.__aenter__())
    for _ in range(turns):
        await asyncio.sleep(0)
    await server.stop()
    await asyncio.wait((starting,))
    assert starting.exception() is None or isinstance(starting.exception(), RuntimeError)
    members = (await cluster.storage.membership.snapshot()).members
    # A registration whose answer nobody waited for stays, silent, until the others evict it.
    assert all(member.status in (MemberStatus.JOINING, MemberStatus.LEFT) for member in members)
    if server.address:
        assert not await is_listening(server)


@pytest.mark.virtual_time(False)
async def test_a_wrong_advertised_address_is_an_error_of_the_server_that_advertises_it(
    cluster: Cluster,
) -> None:
    with pytest.raises(JoinFailed, match=r"does not reach itself at 127\.0\.0\.1:9, which it adv"):
        await cluster.server(Sleeper, advertise="127.0.0.1:9")
    assert (await cluster.storage.membership.snapshot()).members == ()
    right = await cluster.server(Sleeper, advertise="localhost:0")
    assert right.address.startswith("localhost:")


async def test_an_address_at_which_another_server_answers_does_not_end_that_one(
    cluster: Cluster,
) -> None:
    first = await cluster.server(Sleeper)
    with pytest.raises(JoinFailed, match=f"member {first.generation} answers at {first.address}"):
        await cluster.server(Sleeper, advertise=first.address)
    assert first.ready
    assert await status(cluster, first) is MemberStatus.ACTIVE


async def test_a_server_whose_address_another_one_took_names_it(cluster: Cluster) -> None:
    server = await cluster.server(Sleeper)
    other = await cluster.storage.membership.register(server.address)
    text = f"member {other.generation} has registered at the same address; give each server an"
    with pytest.raises(NodeEvicted, match=text):
        await server.closed


async def test_a_restart_after_a_kill_says_for_whom_it_waits(
    cluster: Cluster, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO", "rio.cluster")
    registered = await cluster.storage.membership.register("127.0.0.1:9")
    await cluster.storage.membership.set_status(
        registered.generation, MemberStatus.JOINING, MemberStatus.ACTIVE
    )
    await cluster.server(Sleeper, cluster=rio.ClusterConfig.local())
    assert f"no answer yet from member {registered.generation} (127.0.0.1:9)" in caplog.text


async def test_a_request_to_stop_gives_up_the_start(
    cluster: Cluster, slow_registration: asyncio.Event
) -> None:
    server = rio.Server(rio.Registry(Sleeper), storage=cluster.storage, cluster="local")
    running = asyncio.ensure_future(server.run(handle_signals=False))
    await slow_registration.wait()
    server.request_stop()
    await running
    assert not server.ready


async def test_run_starts_a_server_by_itself(cluster: Cluster) -> None:
    server = rio.Server(rio.Registry(Sleeper), storage=cluster.storage, cluster="local")
    running = asyncio.ensure_future(server.run(handle_signals=False))
    await until(lambda: server.ready)
    assert await is_listening(server)
    server.request_stop()
    await running
    assert await status(cluster, server) is MemberStatus.LEFT


async def test_run_starts_a_prepared_server(cluster: Cluster) -> None:
    server = rio.Server(rio.Registry(Sleeper), storage=cluster.storage, cluster="local")
    await server.prepare()
    running = asyncio.ensure_future(server.run(handle_signals=False))
    await until(lambda: server.ready)
    await server.stop()
    await running


async def test_run_raises_what_keeps_the_server_from_starting(
    cluster: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def fail(*_: object) -> None:
        raise StorageUnavailable("away")

    monkeypatch.setattr(LocalMembershipStorage, "register", fail)
    server = rio.Server(rio.Registry(Sleeper), storage=cluster.storage, cluster="local")
    with pytest.raises(StorageUnavailable):
        await server.run(handle_signals=False)
    await server.closed


async def test_a_server_starts_once(cluster: Cluster) -> None:
    server = await cluster.server(Sleeper)
    for start in (server.__aenter__, server.prepare, server.bind):
        with pytest.raises(RuntimeError, match="cannot start again: make another"):
            await start()
    assert server.ready
    await server.stop()
    with pytest.raises(RuntimeError, match="cannot start again: make another"):
        await server.__aenter__()


# --- a server inside another program --------------------------------------------------------------


async def test_an_embedded_server_tells_that_it_was_evicted_and_has_closed(
    cluster: Cluster,
) -> None:
    server = await cluster.server(Sleeper)
    assert server.ready
    closed = [server.closed for _ in range(3)]
    closed[0].cancel()
    await cluster.storage.membership.set_status(
        server.generation, MemberStatus.ACTIVE, MemberStatus.DEAD
    )
    with pytest.raises(NodeEvicted):
        await closed[1]
    assert not server.ready
    assert not await is_listening(server)
    with pytest.raises(NodeEvicted):
        await server.closed
    await server.stop()


async def test_an_embedded_server_tells_that_it_was_stopped(cluster: Cluster) -> None:
    server = await cluster.server(Sleeper)
    closed = server.closed
    assert not closed.done()
    await server.stop()
    await closed
    assert server.closed.done()


async def test_a_call_through_the_client_of_a_stopped_server_names_the_server(
    cluster: Cluster,
) -> None:
    server = await cluster.server(Sleeper)
    await server.stop()
    with pytest.raises(RuntimeError, match="this server does not run"):
        server.client.send(Sleeper, "a", Wait())


async def test_an_embedded_server_is_not_ready_without_its_lease(
    cluster: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    server = rio.Server(rio.Registry(Sleeper), storage=cluster.storage, cluster="local")
    assert not server.ready
    async with server:
        assert server.ready
        server._cluster._fence()
        assert not server.ready
        await until(lambda: server.ready)


async def test_an_embedded_server_comes_back_as_a_new_member(cluster: Cluster) -> None:
    servers: list[rio.Server] = []

    def make_server() -> rio.Server:
        servers.append(rio.Server(rio.Registry(Sleeper), storage=cluster.storage, cluster="local"))
        return servers[-1]

    async def serve_always() -> None:  # as docs/cluster.md shows it
        while True:
            try:
                async with make_server() as server:
                    return await server.closed
            except NodeEvicted:
                await asyncio.sleep(0.01)

    serving = asyncio.ensure_future(serve_always())
    await until(lambda: servers and servers[0].ready)
    first = servers[0].generation
    await cluster.storage.membership.set_status(first, MemberStatus.ACTIVE, MemberStatus.DEAD)
    await until(lambda: len(servers) == 2 and servers[1].ready)
    assert servers[1].generation > first
    await servers[1].stop()
    await serving
