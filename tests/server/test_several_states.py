"""Several states of an object: one load, one commit, and storages of their own."""

from __future__ import annotations

import random
from collections.abc import AsyncIterator

import pytest
from msgspec.structs import replace

import rio
from rio.contracts.state import Batch, SimpleStateStorage, StateStorage, StoredObject, StoredState
from rio.errors import (
    ConfigurationError,
    NotActivated,
    OutcomeUnknown,
    StateNotFound,
    StorageUnavailable,
    Superseded,
    Unsupported,
)
from rio.identity import ObjectId
from rio.storage.local import LocalState
from rio.testing import StorageFaults
from rio.testing.conformance import StateStorageTests
from tests.server.harness import Cluster, until


class Number(rio.State):
    value: int = 0


class SetAll(rio.Message[None]):
    value: int
    save: str = ""


class GetAll(rio.Message[list[int]], readonly=True):
    pass


class NotedState(LocalState):
    """A storage that notes what it is asked for, under a name."""

    def __init__(self, name: str, notes: list[str]) -> None:
        super().__init__()
        self.name = name
        self.notes = notes
        self.fail = False

    async def load_object(self, object_id: ObjectId, token: int) -> StoredObject:
        self.notes.append(f"load {self.name}")
        return await super().load_object(object_id, token)

    async def commit(self, object_id: ObjectId, token: int, version: int, batch: Batch) -> int:
        self.notes.append(f"commit {self.name}: {' '.join(batch.states)}")
        if self.fail:
            raise StorageUnavailable("the disk is on fire")
        return await super().commit(object_id, token, version, batch)


class FileState(SimpleStateStorage):
    """What a third party may write: one record for each object."""

    volatile = True

    def __init__(self) -> None:
        self.records: dict[ObjectId, tuple[int, int, bytes]] = {}
        self.is_open = False

    async def prepare(self) -> None:
        self.is_open = True

    async def close(self) -> None:
        self.is_open = False

    def read(self, object_id: ObjectId, token: int) -> tuple[int, int, bytes]:
        if not self.is_open:
            raise rio.errors.StorageClosed("FileState is not open")
        return self.records.get(object_id, (token, 0, b""))

    async def load_and_fence(self, object_id: ObjectId, token: int) -> tuple[int, bytes]:
        fence, version, data = self.read(object_id, token)
        if fence > token:
            raise Superseded(f"{object_id} was fenced by {fence}")
        self.records[object_id] = token, version, data
        if not version:
            raise StateNotFound(f"nothing is stored of {object_id}")
        return version, data

    async def save(self, object_id: ObjectId, token: int, version: int, data: bytes) -> int:
        fence, stored, _ = self.read(object_id, -1)
        if (fence, stored) != (token, version):
            raise Superseded(f"{object_id} was saved by another")
        self.records[object_id] = token, version + 1, data
        return version + 1


class TestFileState(StateStorageTests):
    records_cluster = False

    @pytest.fixture
    async def state(self) -> AsyncIterator[StateStorage]:
        async with FileState() as state:
            yield state


def setter(*names: str) -> type[rio.ServiceObject]:
    """A class whose handlers set and get the states of these names."""

    class Setter(rio.ServiceObject):
        @rio.handler
        async def set_all(self, message: SetAll) -> None:
            for name in names:
                getattr(self, name).value = message.value
            await self.save_state(*message.save.split())

        @rio.handler
        async def get_all(self, message: GetAll) -> list[int]:
            return [getattr(self, name).value for name in names]

    return Setter


async def shut_down(cluster: Cluster, client: rio.Client, cls: type, id: str) -> None:
    await client.admin(rio.AdminCommand.shutdown(cls, id))
    await until(lambda: cluster.home(cls, id) is None)


@pytest.mark.parametrize("written", [False, True], ids=["not written", "written, answer lost"])
async def test_several_states_of_one_object_are_saved_together_or_not_at_all(
    cluster: Cluster, written: bool
) -> None:
    class Pair(setter("p", "q")):  # type: ignore[misc]  # a class that a function has made
        p: Number = rio.managed_state()
        q: Number = rio.managed_state()

    faults = StorageFaults(random.Random(1))
    await cluster.server(Pair, storage=faults.wrap(cluster.storage))
    client = await cluster.client()
    await client.send(Pair, "a", SetAll(1))
    if written:
        faults.lost_answers = 1.0
    else:
        faults.unavailable = True
    with pytest.raises(OutcomeUnknown):
        await client.send(Pair, "a", SetAll(2))
    faults.heal()
    assert await client.send(Pair, "a", GetAll()) == ([2, 2] if written else [1, 1])


async def test_an_activation_reads_each_storage_once_and_saves_in_the_order_of_declaration(
    cluster: Cluster,
) -> None:
    notes: list[str] = []
    first, second = NotedState("first", notes), NotedState("second", notes)

    class Spread(setter("a", "b", "c", "d", "e")):  # type: ignore[misc]  # as above
        a: Number = rio.managed_state(storage=second)
        b: Number = rio.managed_state()
        c: Number = rio.managed_state(name="see")
        d: Number = rio.managed_state(storage=second)
        e: Number = rio.managed_state(storage=first)

    default = NotedState("default", notes)
    async with default:
        cluster.storage = replace(cluster.storage, state=default)
        await cluster.server(Spread)
        client = await cluster.client()
        await client.send(Spread, "x", SetAll(1))
        assert notes == [
            "load second",
            "load default",
            "load first",
            "commit second: a d",
            "commit default: b see",
            "commit first: e",
        ]
        notes.clear()
        await client.send(Spread, "x", SetAll(2, save="c d"))
        assert notes == ["commit second: d", "commit default: see"]
        await client.send(Spread, "x", SetAll(3))
        await shut_down(cluster, client, Spread, "x")
        assert await client.send(Spread, "x", GetAll()) == [3] * 5
        default.fail = True
        with pytest.raises(OutcomeUnknown):
            await client.send(Spread, "x", SetAll(4))
        assert await client.send(Spread, "x", GetAll()) == [4, 3, 3, 4, 3], "one after the other"


async def test_a_class_that_a_storage_cannot_save_together_is_refused_when_the_server_prepares(
    cluster: Cluster,
) -> None:
    class Account(setter("a", "b")):  # type: ignore[misc]  # as above
        a: Number = rio.managed_state()
        b: Number = rio.managed_state()

    storage = replace(cluster.storage, state=FileState())
    with pytest.raises(
        ConfigurationError,
        match=r"Account has the states a and b, FileState cannot commit them together:"
        r" use sqlite, postgres, redis or implement StateStorage\.load_object and commit",
    ):
        async with rio.Server(rio.Registry(Account), storage=storage, cluster="local"):
            pass


async def test_a_simple_storage_serves_a_class_with_one_state(cluster: Cluster) -> None:
    class Single(setter("a")):  # type: ignore[misc]  # as above
        a: Number = rio.managed_state(storage=FileState())

    await cluster.server(Single)
    client = await cluster.client()
    for value in (1, 2):
        await client.send(Single, "x", SetAll(value))
        await shut_down(cluster, client, Single, "x")
        assert await client.send(Single, "x", GetAll()) == [value]


async def test_a_simple_storage_does_not_lose_a_state_that_the_class_has_no_field_for(
    cluster: Cluster,
) -> None:
    class Renamed(setter("a")):  # type: ignore[misc]  # as above
        a: Number = rio.managed_state(storage=FileState())

    state = Renamed.__rio_managed_states__[0].field().storage
    assert state is not None
    async with state:
        object_id = ObjectId("Renamed", "x")
        await state.load_object(object_id, 1)
        await state.commit(object_id, 1, 0, Batch({"old": StoredState(b"\x80")}))
    await cluster.server(Renamed)
    client = await cluster.client()
    with pytest.raises(NotActivated, match="FileState holds the state old of Renamed/x"):
        await client.send(Renamed, "x", SetAll(1))


async def test_a_simple_storage_says_what_it_cannot_do() -> None:
    async with FileState() as state:
        with pytest.raises(Unsupported, match="FileState cannot list"):
            await state.list_objects("Account")
        both = Batch({"a": StoredState(b""), "b": StoredState(b"")})
        with pytest.raises(Unsupported, match="FileState keeps one state"):
            await state.commit(ObjectId("Account", "ada"), 1, 0, both)


async def test_a_state_that_the_class_has_no_field_for_survives_a_save(cluster: Cluster) -> None:
    class Older(setter("a")):  # type: ignore[misc]  # as above
        a: Number = rio.managed_state()

    object_id = ObjectId("Older", "x")
    newer = {"a": StoredState(b"\x81\xa5value\x07"), "b": StoredState(b"of a newer version", 3)}
    async with cluster.storage as storage:
        token = (await storage.placement.claim(object_id, 1)).token
        await storage.state.commit(object_id, token, 0, Batch(newer))
        await storage.placement.release(object_id, token)
        await cluster.server(Older)
        client = await cluster.client()
        assert await client.send(Older, "x", GetAll()) == [7]
        await client.send(Older, "x", SetAll(8))
        stored = await storage.state.load_object(object_id, 1 << 60)
        assert stored.states["b"] == newer["b"]
        assert stored.states["a"] == StoredState(b"\x81\xa5value\x08")
