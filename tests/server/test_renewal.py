"""Connections whose proof is old: their clients prove themselves anew, over other connections."""

from __future__ import annotations

import asyncio

import pytest

import rio
from rio.errors import ConnectionLost, Gap
from rio.security import proof
from rio.transport import server_connection
from tests.server.harness import Cluster, Probe, until

pytestmark = pytest.mark.virtual_time

KEY = rio.Key.generate("node", "node")
LIFE = 30.0


class Add(rio.Message[int]):
    pass


class Wait(rio.Message[None]):
    pass


class Forward(rio.Message[int]):
    to: str


class Counter(rio.ServiceObject):
    value = 0

    @rio.handler
    def add(self, message: Add) -> int:
        self.value += 1
        self.publish(message)
        return self.value

    @rio.handler
    async def wait(self, message: Wait, app: rio.AppData) -> None:
        app.get(Probe).note("waits")
        await app.get(Probe).gate("go").wait()

    @rio.handler
    async def forward(self, message: Forward) -> int:
        return await self.send(Counter, message.to, Add())


@pytest.fixture
def security(monkeypatch: pytest.MonkeyPatch) -> rio.Security:
    """One by which a proof is old after 20 to 25 seconds, and too old after 30."""
    monkeypatch.setattr(proof, "RENEW_AFTER", 20)
    monkeypatch.setattr(proof, "RENEW_SPREAD", 5)
    monkeypatch.setattr(server_connection, "PROOF_LIFE", LIFE)
    return rio.Security([KEY], encryption="none")


async def test_clients_and_servers_prove_themselves_anew_and_no_call_fails(
    cluster: Cluster, security: rio.Security, caplog: pytest.LogCaptureFixture
) -> None:
    one, two = await cluster.nodes(2, Counter, security=security)
    client = await cluster.client(security=security)
    to = await cluster.activated_on(two, Counter, Add())
    via = await cluster.activated_on(one, Counter, Add(), "via")
    before = {each for server in (one, two) for each in server._catalog.dispatcher.connections}
    events = 0

    async def follow() -> None:
        nonlocal events
        async with client.subscribe(Counter, to) as subscription:
            while events < 100:
                try:
                    await anext(subscription)
                    events += 1
                except Gap as gap:
                    events += gap.missed or 0

    following = asyncio.ensure_future(follow())
    await asyncio.sleep(0.5)
    for number in range(100):
        assert await client.send(Counter, via, Forward(to)) == number + 2
        await asyncio.sleep(1.0)
    await following
    links = [each._connection for server in (one, two) for each in server._links._links.values()]
    assert links
    assert all(each is not None and not each.is_old for each in links)
    for server in (one, two):
        remote = [each for each in server._catalog.dispatcher.connections if each.is_remote]
        assert remote
        assert not before & set(remote)
    assert "cutting off" not in caplog.text


async def test_a_call_that_is_under_way_ends_on_the_old_connection(
    cluster: Cluster, probe: Probe, security: rio.Security
) -> None:
    await cluster.server(Counter, security=security)
    client = await cluster.client(security=security)
    calling = asyncio.ensure_future(client.send(Counter, "a", Wait()))
    await probe.noted("waits")
    [old] = client._router.pool.connections
    await until(lambda: not old.usable)
    assert await client.send(Counter, "b", Add()) == 1
    assert len([*client._router.pool.connections]) == 2
    probe.gate("go").set()
    await calling
    await asyncio.sleep(3.0)
    assert old not in client._router.pool.connections


async def test_a_connection_whose_client_does_not_prove_itself_anew_is_cut_off(
    cluster: Cluster, probe: Probe, security: rio.Security, caplog: pytest.LogCaptureFixture
) -> None:
    await cluster.server(Counter, security=security)
    client = await cluster.client(security=security, timeout=1000.0)
    calling = asyncio.ensure_future(client.send(Counter, "a", Wait()))
    await probe.noted("waits")
    client._router.pool.rest()
    with pytest.raises(ConnectionLost):
        await calling
    assert "the proof of key 'node' is too old" in caplog.text
