"""Every call ends, and no server works for a caller that has given up."""

from __future__ import annotations

import asyncio
import time

import msgspec
import pytest

import rio
from rio.errors import CallTimeout, Expired, NotExecuted
from tests.server.harness import Cluster, Patient, Probe, RawPeer, instance, until

pytestmark = pytest.mark.virtual_time


class Wait(rio.Message[str]):
    gate: str
    stubborn: bool = False
    """Catch the cancellation, and go on to the end."""


class WaitAtMost(rio.Message[str]):
    gate: str


class Quick(rio.Message[None]):
    name: str


class Left(rio.Message[float]):
    """Answer with the seconds that the handler of a nested call gets."""

    to: str = ""
    timeout: float | None = None


class Within(rio.Message[str]):
    """Use asyncio.timeout inside the handler."""

    seconds: float


class Ask(rio.Message[str]):
    """Have another object wait at a gate."""

    to: str
    gate: str
    timeout: float | None = None


class PassOn(rio.Message[str]):
    """Have another object wait for ever, and let whatever that raises through."""

    to: str


class Sleeper(rio.ServiceObject):
    @rio.handler
    async def wait(self, message: Wait, app: rio.AppData) -> str:
        probe = app.get(Probe)
        probe.note(f"{self.id} waits")
        try:
            await probe.gate(message.gate).wait()
        except asyncio.CancelledError:
            probe.note(f"{self.id} cancelled")
            if not message.stubborn:
                raise
        probe.note(f"{self.id} ends")
        return "done"

    @rio.handler(timeout=0.05)
    async def wait_at_most(self, message: WaitAtMost, app: rio.AppData) -> str:
        try:
            await app.get(Probe).gate(message.gate).wait()
        except asyncio.CancelledError:
            app.get(Probe).note(f"{self.id} cancelled")
            raise
        return "done"

    @rio.handler
    async def quick(self, message: Quick, app: rio.AppData) -> None:
        app.get(Probe).note(f"ran {message.name}")

    @rio.handler
    async def left(self, message: Left) -> float:
        if message.to:
            return await self.send(Sleeper, message.to, Left(), timeout=message.timeout)
        from rio._core.dispatch import current

        turn = current()
        assert turn is not None
        return turn.deadline - turn.dispatcher.now()

    @rio.handler
    async def within(self, message: Within) -> str:
        try:
            async with asyncio.timeout(message.seconds):
                await asyncio.Event().wait()
        except TimeoutError:
            return "timed out inside"
        return "not at all"

    @rio.handler
    async def ask(self, message: Ask, app: rio.AppData) -> str:
        app.get(Probe).note(f"{self.id} asks")
        try:
            return await self.send(Sleeper, message.to, Wait(message.gate), timeout=message.timeout)
        except rio.RioError as error:
            return type(error).__name__

    @rio.handler
    async def pass_on(self, message: PassOn) -> str:
        return await self.send(Sleeper, message.to, Wait("never"))


@pytest.fixture
async def server(cluster: Cluster) -> rio.Server:
    return await cluster.server(Sleeper)


# --- where the deadline comes from ----------------------------------------------------------------


async def test_the_default_is_thirty_seconds(server: rio.Server, cluster: Cluster) -> None:
    client = await cluster.client()
    left = await client.send(Sleeper, "a", Left())
    assert 0 < left <= 30


async def test_a_client_may_have_a_default_of_its_own_and_a_call_its_own(
    server: rio.Server, cluster: Cluster
) -> None:
    client = await cluster.client(timeout=100)
    assert 30 < await client.send(Sleeper, "a", Left()) <= 100
    assert 100 < await client.send(Sleeper, "a", Left(), timeout=1000) <= 1000


async def test_a_nested_call_is_given_no_more_than_what_is_left(
    server: rio.Server, cluster: Cluster
) -> None:
    client = await cluster.client()
    assert await client.send(Sleeper, "a", Left(to="b", timeout=1000), timeout=10) <= 10
    assert await client.send(Sleeper, "a", Left(to="b", timeout=5), timeout=1000) <= 5
    assert 30 < await client.send(Sleeper, "a", Left(to="b", timeout=900), timeout=1000) <= 900


@pytest.mark.parametrize("timeout", [0, 0.0, -1, -0.5])
async def test_no_time_at_all_is_a_call_that_is_not_answered_in_time(
    server: rio.Server, cluster: Cluster, timeout: float
) -> None:
    client = await cluster.client()
    await client.send(Sleeper, "a", Quick("first"))
    with pytest.raises(rio.RioError) as caught:
        await client.send(Sleeper, "a", Wait("never"), timeout=timeout)
    assert isinstance(caught.value, CallTimeout | Expired)
    await until(lambda: server.statistics().in_flight == 0)


# --- what happens at the deadline -----------------------------------------------------------------


async def test_a_call_past_its_deadline_ends_and_its_work_is_cancelled(
    server: rio.Server, cluster: Cluster, probe: Probe
) -> None:
    client = await cluster.client()
    await client.send(Sleeper, "a", Quick("connects"))
    with pytest.raises(CallTimeout, match="Sleeper/a was still handling Wait at the deadline"):
        await client.send(Sleeper, "a", Wait("never"), timeout=0.1)
    await probe.noted("a cancelled")
    assert await client.send(Sleeper, "a", Quick("next")) is None


async def test_a_timeout_is_a_timeout_error_of_python(server: rio.Server, cluster: Cluster) -> None:
    client = await cluster.client(timeout=0.1)
    await client.send(Sleeper, "a", Quick("connects"), timeout=5.0)
    with pytest.raises(TimeoutError):
        await client.send(Sleeper, "a", Wait("never"))


async def test_a_handler_that_has_a_timeout_is_cancelled_by_the_server(
    server: rio.Server, cluster: Cluster, probe: Probe
) -> None:
    client = await cluster.client()
    with pytest.raises(
        CallTimeout,
        match="Sleeper/a was still handling WaitAtMost at the deadline, and was cancelled",
    ):
        await client.send(Sleeper, "a", WaitAtMost("never"))
    assert probe.count("a cancelled") == 1
    probe.gate("open").set()
    assert await client.send(Sleeper, "a", WaitAtMost("open")) == "done"


async def test_a_call_that_waited_until_its_deadline_is_not_started(
    server: rio.Server, cluster: Cluster, probe: Probe
) -> None:
    client = await cluster.client()
    first = asyncio.ensure_future(client.send(Sleeper, "a", Wait("go")))
    await probe.noted("a waits")
    with pytest.raises(Expired, match="waited for Sleeper/a until its deadline"):
        await client.send(Sleeper, "a", Quick("late"), timeout=0.02)
    await until(lambda: server.statistics().in_flight == 1)
    probe.gate("go").set()
    assert await first == "done"
    await client.send(Sleeper, "a", Quick("after"))
    assert probe.count("ran late") == 0
    assert probe.count("ran after") == 1


@pytest.mark.parametrize("where", ["another client", "the server's own"])
async def test_calls_that_never_began_say_so(
    server: rio.Server, cluster: Cluster, probe: Probe, where: str
) -> None:
    client = await cluster.client() if where == "another client" else server.client
    first = asyncio.ensure_future(client.send(Sleeper, "a", Wait("go")))
    await probe.noted("a waits")
    ends = await asyncio.gather(
        *(client.send(Sleeper, "a", Quick("late"), timeout=0.05 + n / 5000) for n in range(500)),
        return_exceptions=True,
    )
    assert {type(end) for end in ends} == {Expired}
    probe.gate("go").set()
    assert await first == "done"
    assert probe.count("ran late") == 0


async def test_a_server_that_answers_no_cancel_is_not_waited_for(
    server: rio.Server, cluster: Cluster, probe: Probe, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("rio.client.deadlines.SHORTEST_WAIT", 1000.0)
    client = await cluster.client()
    await client.send(Sleeper, "a", Quick("connects"))
    [connection] = client._router.pool.connections
    assert connection.answers_cancel
    connection.answers_cancel = False
    with pytest.raises(CallTimeout, match="did not answer Wait in time; it may have run"):
        await client.send(Sleeper, "a", Wait("never"), timeout=0.02)


async def test_a_silent_server_is_waited_for_a_moment_after_the_deadline(
    server: rio.Server, cluster: Cluster, probe: Probe
) -> None:
    client = await cluster.client()
    await client.send(Sleeper, "a", Quick("connects"))
    [connection] = client._router.pool.connections
    connection.transport.pause_reading()
    with pytest.raises(CallTimeout, match="did not answer Wait in time; it may have run"):
        await client.send(Sleeper, "a", Wait("never"), timeout=0.02)
    connection.transport.resume_reading()
    assert await client.send(Sleeper, "b", Quick("after")) is None


async def test_a_server_that_was_slow_once_is_not_waited_for_much_longer(
    server: rio.Server, cluster: Cluster, probe: Probe, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("rio.client.deadlines.LONGEST_WAIT", 0.2)
    client = await cluster.client()
    await client.send(Sleeper, "a", Quick("connects"))
    [connection] = client._router.pool.connections
    connection.round_trip = 1000.0
    connection.transport.pause_reading()
    with pytest.raises(CallTimeout):
        await client.send(Sleeper, "a", Wait("never"), timeout=0.02)
    connection.transport.resume_reading()


async def test_an_answer_that_comes_after_the_deadline_and_before_the_verdict_is_the_answer(
    server: rio.Server, cluster: Cluster, probe: Probe
) -> None:
    client = await cluster.client()
    await client.send(Sleeper, "a", Quick("connects"))
    [connection] = client._router.pool.connections
    call = asyncio.ensure_future(client.send(Sleeper, "a", Wait("go"), timeout=0.05))
    await probe.noted("a waits")
    connection.transport.pause_reading()
    probe.gate("go").set()
    await probe.noted("a ends")
    await asyncio.sleep(0.06)  # past the deadline
    connection.transport.resume_reading()
    assert await call == "done"


async def test_the_server_itself_ends_what_waits_too_long(
    server: rio.Server, cluster: Cluster, probe: Probe
) -> None:
    client = await cluster.client()
    first = asyncio.ensure_future(client.send(Sleeper, "a", Wait("go")))
    await probe.noted("a waits")
    async with await RawPeer.connect(server) as peer:
        peer.send(
            msgspec.msgpack.encode((1, 5, "Sleeper", "a", "Quick", 20, None, {"name": "late"}))
        )
        kind, id, code, text, _ = await peer.frame()
    assert (kind, id, code) == (3, 5, "expired")
    assert text == "Quick waited for Sleeper/a until its deadline, and was not started"
    probe.gate("go").set()
    await first
    assert probe.count("ran late") == 0


async def test_a_deadline_that_passes_while_the_loop_is_blocked_is_not_started_afterwards(
    server: rio.Server, cluster: Cluster, probe: Probe
) -> None:
    """The client gives up, because the request lies in the socket while nothing runs.

    The server counts the time that is left when it reads the request.
    """
    client = await cluster.client()
    await client.send(Sleeper, "a", Quick("first"))
    call = asyncio.ensure_future(client.send(Sleeper, "a", Wait("never"), timeout=0.01))
    await asyncio.sleep(0)
    time.sleep(0.05)  # noqa: ASYNC251  # the point of the test
    with pytest.raises(CallTimeout):
        await call
    await until(lambda: server.statistics().in_flight == 0)
    assert await client.send(Sleeper, "a", Quick("second")) is None


async def test_a_handler_that_goes_on_after_its_cancellation_keeps_the_object_until_it_ends(
    server: rio.Server, cluster: Cluster, probe: Probe
) -> None:
    client = await cluster.client()
    await client.send(Sleeper, "a", Quick("connects"))
    call = client.send(Sleeper, "a", Wait("never", stubborn=True), timeout=0.1)
    [end] = await asyncio.gather(call, return_exceptions=True)
    # The server's own look at deadlines may come before the client's CANCEL. Then there is a reply.
    assert end == "done" or isinstance(end, CallTimeout)
    await probe.noted("a ends")
    assert await client.send(Sleeper, "a", Quick("next")) is None


# --- callers that give up -------------------------------------------------------------------------


async def test_a_caller_that_is_cancelled_cancels_the_work(
    server: rio.Server, cluster: Cluster, probe: Probe
) -> None:
    client = await cluster.client()
    call = asyncio.ensure_future(client.send(Sleeper, "a", Wait("never")))
    await probe.noted("a waits")
    call.cancel()
    await probe.noted("a cancelled")
    await until(lambda: server.statistics().in_flight == 0)
    assert server.statistics().failures == 0


async def test_a_caller_with_a_timeout_of_its_own_cancels_the_work(
    server: rio.Server, cluster: Cluster, probe: Probe
) -> None:
    client = await cluster.client()
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.02):
            await client.send(Sleeper, "a", Wait("never"))
    await probe.noted("a cancelled")


async def test_a_client_that_disconnects_cancels_its_work(
    server: rio.Server, cluster: Cluster, probe: Probe
) -> None:
    async with rio.Client(cluster.storage) as client:
        running = asyncio.ensure_future(client.send(Sleeper, "a", Wait("never")))
        await probe.noted("a waits")
        waiting = asyncio.ensure_future(client.send(Sleeper, "a", Quick("queued")))
        await until(lambda: server.statistics().in_flight == 2)
    await probe.noted("a cancelled")
    await until(lambda: server.statistics().in_flight == 0)
    assert {
        type(outcome).__name__
        for outcome in await asyncio.gather(running, waiting, return_exceptions=True)
    } == {"ConnectionLost"}
    assert probe.count("ran queued") == 0
    assert server.statistics().connections == 0


@pytest.mark.parametrize("nodes", [1, 2])
async def test_giving_up_reaches_the_calls_within_the_call(
    cluster: Cluster, probe: Probe, nodes: int
) -> None:
    servers = await cluster.nodes(nodes, Sleeper)
    await servers[0].client.send(Sleeper, "a", Quick("a"))
    await servers[-1].client.send(Sleeper, "b", Quick("b"))
    client = await cluster.client()
    call = asyncio.ensure_future(client.send(Sleeper, "a", Ask("b", "never")))
    await probe.noted("b waits")
    call.cancel()
    await probe.noted("b cancelled")
    await until(lambda: all(server.statistics().in_flight == 0 for server in servers))


async def test_a_nested_call_that_times_out_is_told_to_the_handler(
    server: rio.Server, cluster: Cluster, probe: Probe
) -> None:
    client = await cluster.client()
    await client.send(Sleeper, "b", Quick("loads"))
    assert await client.send(Sleeper, "a", Ask("b", "never", timeout=0.1)) == "CallTimeout"
    await probe.noted("b cancelled")


async def test_asyncio_timeout_works_inside_of_handlers(
    server: rio.Server, cluster: Cluster
) -> None:
    client = await cluster.client()
    assert await client.send(Sleeper, "a", Within(0.01)) == "timed out inside"
    assert await client.send(Sleeper, "a", Within(0)) == "timed out inside"


async def test_calls_that_find_no_server_in_time_say_that_they_did_not_run(
    cluster: Cluster, probe: Probe
) -> None:
    server = await cluster.server(Sleeper)
    client = await cluster.client(rng=Patient())
    server._catalog.draining = True
    with pytest.raises(
        Expired,
        match=r"Quick to Sleeper/a found no server that could take it in time; the last attempt:"
        r" .* is about to stop",
    ) as caught:
        await client.send(Sleeper, "a", Quick("x"), timeout=0.5)
    assert isinstance(caught.value, NotExecuted)
    server._catalog.draining = False


@pytest.mark.parametrize("own", [True, False], ids=["client of the node", "another client"])
async def test_a_handler_that_awaits_another_object_at_its_deadline_keeps_its_object(
    cluster: Cluster, own: bool
) -> None:
    server = await cluster.server(Sleeper)
    client = server.client if own else await cluster.client()
    for number in range(5):
        id = f"asks {number}"
        await client.send(Sleeper, id, Quick("first"))
        before = instance(server, Sleeper, id)
        with pytest.raises(CallTimeout):
            await client.send(Sleeper, id, PassOn(f"asked {number}"), timeout=0.1)
        await client.send(Sleeper, id, Quick("again"))
        assert instance(server, Sleeper, id) is before
