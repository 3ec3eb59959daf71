"""Promises about what storages keep, and change, under a cluster, each as a short scenario.

A scenario returns what broke its promise. ``test_mutants.py`` plants a
mistake in the code behind each, and the scenario must find it.
"""

from __future__ import annotations

import asyncio
import tempfile
from collections.abc import Callable, Coroutine
from contextlib import suppress
from functools import wraps
from pathlib import Path
from typing import Any
from unittest import mock

import rio
from rio.cluster.config import ClusterConfig
from rio.contracts.state import Batch, StoredState
from rio.errors import JoinFailed, NotExecuted, SchemaMismatch, Superseded
from rio.storage import migrate, open_storage, read_schemas
from rio.storage._migrations import Migration
from rio.storage.sqlite import _schema as sqlite_schema
from rio.testing import LocalCluster, run


class Touch(rio.Message[None]):
    pass


class Thing(rio.ServiceObject):
    @rio.handler
    def touch(self, _: Touch) -> None: ...


Scenario = Callable[[], list[str]]
STRICT = ClusterConfig.strict()


def in_virtual_time(scenario: Callable[[], Coroutine[Any, Any, list[str]]]) -> Scenario:
    @wraps(scenario)
    def play() -> list[str]:
        return run(scenario())

    return play


def in_real_time(scenario: Callable[[], Coroutine[Any, Any, list[str]]]) -> Scenario:
    @wraps(scenario)
    def play() -> list[str]:
        return asyncio.run(scenario())

    return play


@in_virtual_time
async def another_database_server_is_a_pause() -> list[str]:
    """Whatever its id is: an id is random, so it is as often smaller as it is larger."""
    found = []
    async with LocalCluster(rio.Registry(Thing), nodes=1, cluster=STRICT) as cluster:
        [node] = cluster.nodes
        membership = type(node.server._cluster._storage)
        for id in ("5", "7", "3", ""):
            with mock.patch.object(membership, "history", id):
                await asyncio.sleep(2 * STRICT.renew_interval)
                if node.server._catalog.dispatcher.admits:
                    found.append(f"the node did not pause for the database server {id!r}")
                await asyncio.sleep(STRICT.lease_evict + STRICT.renew_interval)
    return found


@in_virtual_time
async def placements_that_are_lost_are_noticed() -> list[str]:
    """An object that another node has claimed meanwhile leaves within the lease."""
    async with LocalCluster(rio.Registry(Thing), nodes=2, cluster=STRICT) as cluster:
        await cluster.client.send(Thing, "a", Touch())
        [owner] = [node for node in cluster.nodes if node.server.statistics().live_objects]
        [other] = [node for node in cluster.nodes if node is not owner]
        [object_id] = await cluster.storage.placement.owned_by(owner.generation)
        placement = await cluster.storage.placement.lookup(object_id)
        assert placement is not None
        await cluster.storage.placement.release(object_id, placement.token)
        await cluster.storage.placement.claim(object_id, other.generation)
        await asyncio.sleep(STRICT.lease_local)
        serves = owner.server._catalog.dispatcher.admits
        return ["the object lives twice for longer than the lease"] if serves else []


@in_real_time
async def nothing_is_migrated_under_a_live_node() -> list[str]:
    """A node of the old version would go on in the old tables."""
    with tempfile.TemporaryDirectory() as folder:
        url = f"sqlite:///{Path(folder) / 'rio.db'}"
        async with open_storage(url) as storage:
            await storage.membership.register("old:1")
        newer = Migration("an invented table", ("CREATE TABLE rio_invented (id INTEGER)",))
        with mock.patch.object(sqlite_schema, "MIGRATIONS", (newer,)):
            with suppress(SchemaMismatch):
                await migrate(open_storage(url))
            [status] = await read_schemas(open_storage(url))
        return [f"migrated to schema {status.found}"] if status.found > 1 else []


@in_virtual_time
async def a_paused_activation_saves_nothing_after_its_successor_has_read() -> list[str]:
    """Its first save arrives late: the object was taken over, and read as one nobody has saved."""
    object_id, batch = rio.ObjectId("Thing", "a"), Batch({"s": StoredState(b"late")})
    async with open_storage("memory://") as storage:
        paused = await storage.placement.claim(object_id, 1)
        await storage.state.load_object(object_id, paused.token)
        successor = await storage.placement.claim(object_id, 2, supersede=paused.token)
        await storage.state.load_object(object_id, successor.token)
        with suppress(Superseded):
            await storage.state.commit(object_id, paused.token, 0, batch)
        stored = await storage.state.load_object(object_id, successor.token)
        return [f"{stored} was saved"] if stored.version else []


@in_virtual_time
async def a_load_fences_all_states_of_an_object() -> list[str]:
    """An activation that was superseded saves none of them, whichever it tries."""
    object_id, found = rio.ObjectId("Thing", "a"), []
    batches = [Batch({name: StoredState(b"")}) for name in ("first", "second")]
    async with open_storage("memory://") as storage:
        state = storage.state
        old = (await storage.placement.claim(object_id, 1)).token
        await state.load_object(object_id, old)
        version = 0
        for batch in batches:
            version = await state.commit(object_id, old, version, batch)
        new = (await storage.placement.claim(object_id, 2, supersede=old)).token
        await state.load_object(object_id, new)
        for batch in batches:
            with suppress(Superseded):
                version = await state.commit(object_id, old, version, batch)
                found.append(f"the superseded activation saved {batch}")
    return found


@in_virtual_time
async def who_differs_in_its_settings_does_not_join() -> list[str]:
    """The lease of one must fit into the patience of the others."""
    async with LocalCluster(rio.Registry(Thing), nodes=1, cluster=STRICT) as cluster:
        try:
            await cluster.start_node(cluster="fast")
        except JoinFailed:
            return []
        return ["a node with the preset fast joined one with strict"]


class Newer(rio.State, schema=2):
    value: int = 0


class Older(rio.State, schema=1):
    value: int = 0


@rio.upcast(Newer, 1)
def _to_newer(old: dict[str, Any]) -> dict[str, Any]:
    return old


class Save(rio.Message[None]):
    pass


class NewerAccount(rio.ServiceObject, type_name="Account"):
    state: Newer = rio.managed_state()

    @rio.handler
    async def save(self, _: Save) -> None:
        self.state.value += 1
        await self.save_state()


class OlderAccount(rio.ServiceObject, type_name="Account"):
    state: Older = rio.managed_state()

    @rio.handler
    async def save(self, _: Save) -> None:
        self.state.value += 1
        await self.save_state()


@in_virtual_time
async def an_old_node_leaves_a_newer_schema_alone() -> list[str]:
    """It does not know what the newer one means."""
    async with open_storage("memory://") as storage:
        for account in (NewerAccount, OlderAccount):
            registry = rio.Registry(account)
            async with LocalCluster(registry, nodes=1, storage=storage) as cluster:
                with suppress(NotExecuted):
                    await cluster.client.send(account, "a", Save(), timeout=5.0)
        [(_, stored)] = storage.state._objects.values()  # type: ignore[attr-defined]
        schema = stored.states["state"].schema
        return [] if schema == 2 else [f"the old node saved schema {schema} over it"]


class Keep(rio.Message[None]):
    pass


class Wide(rio.State):
    value: int = 0
    note: str = ""


class Narrow(rio.State):
    value: int = 0


class WideAccount(rio.ServiceObject, type_name="Account"):
    state: Wide = rio.managed_state()

    @rio.handler
    async def save(self, _: Save) -> None:
        self.state.value += 1
        await self.save_state()

    @rio.handler
    async def keep(self, _: Keep) -> None:
        self.state.note = "kept"
        await self.save_state()


class NarrowAccount(rio.ServiceObject, type_name="Account"):
    state: Narrow = rio.managed_state()

    @rio.handler
    async def save(self, _: Save) -> None:
        self.state.value += 1
        await self.save_state()


@in_virtual_time
async def an_old_node_claims_nothing_while_most_are_new() -> list[str]:
    """Its objects could not handle what the new ones do, and would have to move at once."""
    async with LocalCluster(rio.Registry(WideAccount), nodes=2, version="2") as cluster:
        old = await cluster.start_node(version="1")
        for node in cluster.nodes:
            await node.server._cluster.read_manifests()
        ids = [f"a{number}" for number in range(10)]
        for id in ids:
            await old.server.client.send(WideAccount, id, Save(), timeout=5.0)
        placements = [
            await cluster.storage.placement.lookup(rio.ObjectId("Account", id)) for id in ids
        ]
        claimed = [
            id
            for id, placement in zip(ids, placements, strict=True)
            if placement is None or placement.generation == old.generation
        ]
        return [f"the old node claimed {id}" for id in claimed]


@in_virtual_time
async def an_old_node_keeps_the_fields_that_it_does_not_know() -> list[str]:
    """What a newer node has saved is there when the object is back."""
    async with open_storage("memory://") as storage:
        notes = []
        for account, message in (
            (WideAccount, Keep()),
            (NarrowAccount, Save()),
            (WideAccount, Save()),
        ):
            registry = rio.Registry(account)
            async with LocalCluster(registry, nodes=1, storage=storage) as cluster:
                await cluster.client.send(account, "a", message, timeout=5.0)
            [(_, stored)] = storage.state._objects.values()  # type: ignore[attr-defined]
            notes.append(b"kept" in stored.states["state"].data)
        return [] if all(notes) else [f"the field is there after each save: {notes}"]
