"""Servers that run different versions of a program serve one cluster."""

from __future__ import annotations

import asyncio
from collections import Counter
from typing import Any

import pytest

import rio
from rio.errors import UnknownMessage
from rio.identity import ObjectId
from rio.server import versions
from tests.server.harness import Cluster, Probe, activations, until


class Where(rio.Message[str]):
    pass


class Add(rio.Message[int]):
    pause: float = 0.0


class Audit(rio.Message[int]):
    """Only the new version handles it."""


class Unheard(rio.Message[int]):
    """No version handles it."""


class Total(rio.State):
    value: int = 0


class Account(rio.ServiceObject, type_name="Account"):
    total: Total = rio.managed_state()

    async def shutdown(self, app: rio.AppData) -> None:
        app.get(Probe).note(f"{self.id} leaves: {self.leaving}")

    @rio.handler
    def where(self, message: Where) -> str:
        return str(self.address)

    @rio.handler
    async def add(self, message: Add) -> int:
        self.total.value += 1
        if message.pause:
            await asyncio.sleep(message.pause)
        await self.save_state()
        return self.total.value


class NewAccount(Account, type_name="Account"):
    @rio.handler
    def audit(self, message: Audit) -> int:
        return self.total.value


async def old(cluster: Cluster) -> rio.Server:
    return await cluster.server(Account, version="1")


async def new(cluster: Cluster) -> rio.Server:
    return await cluster.server(NewAccount, version="2")


async def all_have_read(cluster: Cluster) -> None:
    """Every server knows what the others handle, and who is active."""
    for server in cluster.servers:
        await server._cluster.read_manifests()


def homes(cluster: Cluster) -> Counter[str]:
    return Counter(
        {server.address: len(activations(server, Account)) for server in cluster.servers}
    )


# --- messages that some members do not know -------------------------------------------------------


async def test_a_new_message_to_a_new_object_is_handled_while_old_servers_run(
    cluster: Cluster,
) -> None:
    await old(cluster)
    await old(cluster)
    newest = await new(cluster)
    await all_have_read(cluster)
    client = await cluster.client()
    ids = [f"a{number}" for number in range(50)]
    assert await asyncio.gather(*(client.send(Account, id, Audit()) for id in ids)) == [0] * 50
    assert len(activations(newest, Account)) == 50


async def test_an_object_of_an_old_server_goes_to_a_new_one_for_a_new_message(
    cluster: Cluster, probe: Probe
) -> None:
    first = await old(cluster)
    await first.client.send(Account, "ada", Add())
    newest = await new(cluster)
    await all_have_read(cluster)
    client = await cluster.client()
    calls = [
        client.send(Account, "ada", Add(pause=0.02)),
        client.send(Account, "ada", Add()),
        client.send(Account, "ada", Audit()),
        client.send(Account, "ada", Add()),
        client.send(Account, "ada", Audit()),
        client.send(Account, "ada", Where()),
    ]
    assert await asyncio.gather(*calls) == [2, 3, 3, 4, 4, newest.address]
    assert probe.log == ["ada leaves: upgrade"]
    assert await first.client.send(Account, "ada", Where()) == newest.address


async def test_an_old_server_takes_a_call_to_what_it_owns_on_to_a_new_one(
    cluster: Cluster,
) -> None:
    """The object is in no memory, but the old server owns it."""
    first = await old(cluster)
    await cluster.storage.placement.claim(ObjectId("Account", "ada"), first.generation)
    newest = await new(cluster)
    await all_have_read(cluster)
    client = await cluster.client()
    assert await client.send(Account, "ada", Audit()) == 0
    assert cluster.home(Account, "ada") is newest


@pytest.mark.virtual_time
async def test_an_old_server_that_has_not_read_of_a_new_one_asks_before_it_refuses(
    cluster: Cluster,
) -> None:
    first = await old(cluster)
    await new(cluster)
    assert not first._catalog._versions.is_handled("Account", "Audit")
    client = await cluster.client()
    for id in ("ada", "bob"):
        assert await client.send(Account, id, Audit()) == 0


async def test_a_connection_that_has_passed_a_message_on_asks_again_when_a_server_has_joined(
    cluster: Cluster,
) -> None:
    first = await old(cluster)
    client = await cluster.client()
    await client.send(Account, "ada", Add())
    for _ in range(2):
        newest = await new(cluster)
        assert await client.send(Account, "ada", Audit()) == 1
        await newest.stop()
        assert await client.send(Account, "ada", Where()) == first.address


async def test_what_was_read_for_a_call_of_long_ago_refuses_no_other(
    cluster: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = await old(cluster)
    known = first._catalog._versions
    assert not known.is_unknown("Account", "Audit")  # its caller gives up, and does not come back
    await until(lambda: known._reads_done == 1)
    with monkeypatch.context() as later:
        later.setattr(versions, "FRESH", 0.0)
        assert not known.is_unknown("Account", "Audit")
    await new(cluster)
    client = await cluster.client()
    assert await client.send(Account, "ada", Audit()) == 0


async def test_a_message_that_no_version_handles_is_refused_and_moves_nothing(
    cluster: Cluster, probe: Probe
) -> None:
    first = await old(cluster)
    await first.client.send(Account, "ada", Add())
    await new(cluster)
    await all_have_read(cluster)
    client = await cluster.client()
    for id in ("ada", "new"):
        with pytest.raises(UnknownMessage, match="'Unheard'"):
            await client.send(Account, id, Unheard())
    assert cluster.home(Account, "ada") is first
    assert cluster.home(Account, "new") is None
    assert await cluster.storage.placement.lookup(ObjectId("Account", "new")) is None
    assert probe.log == []


async def test_a_message_whose_last_server_is_about_to_stop_is_refused(
    cluster: Cluster,
) -> None:
    first = await old(cluster)
    await first.client.send(Account, "ada", Add())
    newest = await new(cluster)
    await all_have_read(cluster)
    await newest.stop()
    await all_have_read(cluster)
    client = await cluster.client()
    with pytest.raises(UnknownMessage):
        await client.send(Account, "ada", Audit())
    assert await client.send(Account, "ada", Add()) == 2


# --- where new objects come to life ---------------------------------------------------------------


@pytest.mark.parametrize("ask", ["client", "old", "new"])
async def test_a_first_server_of_a_new_version_draws_no_objects(cluster: Cluster, ask: str) -> None:
    first, second, canary = await old(cluster), await old(cluster), await new(cluster)
    await all_have_read(cluster)
    asked = {"client": await cluster.client(), "old": first.client, "new": canary.client}[ask]
    for number in range(100):
        await asked.send(Account, f"a{number}", Where())
    shares = homes(cluster)
    assert shares[canary.address] == 0
    assert shares[first.address] + shares[second.address] == 100
    assert ask == "old" or shares[first.address] > 20 < shares[second.address]


@pytest.mark.parametrize("ask", ["client", "old", "new"])
async def test_the_last_server_of_an_old_version_takes_no_new_objects(
    cluster: Cluster, ask: str
) -> None:
    last, first, second = await old(cluster), await new(cluster), await new(cluster)
    await all_have_read(cluster)
    asked = {"client": await cluster.client(), "old": last.client, "new": first.client}[ask]
    for number in range(30):
        await asked.send(Account, f"a{number}", Where())
    assert homes(cluster)[last.address] == 0
    assert homes(cluster)[first.address] + homes(cluster)[second.address] == 30


async def test_servers_of_other_types_do_not_make_a_version(cluster: Cluster) -> None:
    class Other(rio.ServiceObject):
        pass

    both = await cluster.server(Account, Other)
    one, two = await cluster.nodes(2, Account)
    await all_have_read(cluster)
    for number in range(10):
        assert await both.client.send(Account, f"a{number}", Where()) == both.address
    assert homes(cluster)[one.address] == homes(cluster)[two.address] == 0


async def test_a_roll_and_a_roll_back_refuse_no_call_and_keep_the_order(cluster: Cluster) -> None:
    servers: list[Any] = [await old(cluster) for _ in range(3)]
    client = await cluster.client(refresh_interval=0.1)
    sent = Counter[str]()
    done = asyncio.Event()

    async def work(id: str) -> None:
        while not done.is_set():
            calls = [client.send(Account, id, Add()) for _ in range(5)]
            assert await asyncio.gather(*calls) == [sent[id] + n for n in range(1, 6)]
            sent[id] += 5
            if any(server._manifest.version == "2" for server in servers[:2]):
                assert await client.send(Account, id, Audit()) == sent[id]

    async with asyncio.TaskGroup() as tasks:
        for number in range(20):
            tasks.create_task(work(f"a{number}"))
        for make in (new, old):
            for index in range(3):
                await asyncio.sleep(0.1)
                fresh = await make(cluster)
                await all_have_read(cluster)
                stopping, servers[index] = servers[index], fresh
                await stopping.stop()
                cluster.servers.remove(stopping)
        await asyncio.sleep(0.1)
        done.set()
    assert min(sent.values()) > 0
