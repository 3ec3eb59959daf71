"""States that are kept by what AppData holds, as bytes or as they are."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

import rio
from rio.contracts import StateStorage, TypedStateStorage
from rio.errors import (
    BadRegistration,
    ConfigurationError,
    StateCorrupt,
    StateNotFound,
    StorageClosed,
    Superseded,
)
from rio.identity import ObjectId
from rio.storage.local import LocalState
from rio.testing import LocalCluster
from tests.server.harness import Cluster, activations, instance, until


class Purse(rio.State):
    cents: int = 0


class Put(rio.Message[int]):
    cents: int


class Purses(TypedStateStorage[Purse]):
    """Keeps copies in a dict, as a user's storage might."""

    volatile = True

    def __init__(self) -> None:
        self.rows: dict[ObjectId, tuple[int, int, Purse | None]] = {}
        self.opened = 0

    async def prepare(self) -> None:
        self.opened = 1

    async def close(self) -> None:
        self.opened = 0

    async def load_and_fence(self, object_id: ObjectId, token: int) -> tuple[int, Purse]:
        if not self.opened:
            raise StorageClosed("closed")
        fence, version, state = self.rows.get(object_id, (0, 0, None))
        if fence > token:
            raise Superseded("fenced")
        self.rows[object_id] = (token, version, state)
        if state is None:
            raise StateNotFound("nothing")
        return version, state

    async def save(self, object_id: ObjectId, token: int, version: int, state: Purse) -> int:
        if self.rows[object_id][:2] != (token, version):
            raise Superseded("fenced")
        self.rows[object_id] = (token, version + 1, state)
        return version + 1


class Account(rio.ServiceObject):
    purse: Purse = rio.managed_state(storage=Purses)

    @rio.handler
    async def put(self, message: Put) -> int:
        self.purse.cents += message.cents
        await self.save_state()
        return self.purse.cents


class Ledger(rio.ServiceObject):
    purse: Purse = rio.managed_state(storage=LocalState)

    @rio.handler
    async def put(self, message: Put) -> int:
        self.purse.cents += message.cents
        await self.save_state()
        return self.purse.cents


async def test_a_typed_storage_gets_and_gives_states_as_they_are(cluster: Cluster) -> None:
    app, purses = cluster.app_data(), Purses()
    app.set(purses)
    server = await cluster.server(Account, app_data=app)
    client = server.client
    assert await client.send(Account, "ada", Put(3)) == 3
    assert purses.rows[ObjectId("Account", "ada")][2] == Purse(3)
    # what is stored is no longer what the object has
    assert purses.rows[ObjectId("Account", "ada")][2] is not instance(server, Account, "ada").purse
    await client.admin(rio.AdminCommand.shutdown(Account, "ada"))
    await until(lambda: not activations(server, Account))
    assert await client.send(Account, "ada", Put(4)) == 7


async def test_a_newer_activation_fences_the_older_one(cluster: Cluster) -> None:
    app, purses = cluster.app_data(), Purses()
    app.set(purses)
    client = (await cluster.server(Account, app_data=app)).client
    await client.send(Account, "ada", Put(3))
    key = ObjectId("Account", "ada")
    token, version, state = purses.rows[key]
    purses.rows[key] = (token + 1, version, state)  # as another node would
    with pytest.raises(rio.errors.Superseded):
        await client.send(Account, "ada", Put(1))
    assert purses.rows[key][2] == Purse(3)


async def test_a_storage_from_app_data_opens_and_closes_with_its_servers(
    cluster: Cluster,
) -> None:
    app, purses = cluster.app_data(), Purses()
    app.set(purses)
    one = await cluster.server(Account, app_data=app)
    other = await cluster.server(Account, app_data=app)
    await one.stop()
    assert purses.opened
    await other.client.send(Account, "ada", Put(3))
    await other.stop()
    assert not purses.opened


async def test_a_storage_of_bytes_may_come_from_app_data_too(cluster: Cluster) -> None:
    app, states = cluster.app_data(), LocalState()
    app.set(states)
    server = await cluster.server(Ledger, app_data=app)
    assert await server.client.send(Ledger, "ada", Put(3)) == 3
    stored = await states.read_object(ObjectId("Ledger", "ada"))
    assert stored.version == 1
    await server.stop()
    with pytest.raises(StorageClosed):
        await states.read_object(ObjectId("Ledger", "ada"))


async def test_a_test_puts_another_storage_in_its_place() -> None:
    class Fake(Purses):
        pass

    app, fake = rio.AppData(), Fake()
    app.set(fake, Purses)
    async with LocalCluster(rio.Registry(Account), app_data=app, nodes=2) as cluster:
        assert await cluster.client.ref(Account, "ada").put(Put(3)) == 3
    assert fake.rows[ObjectId("Account", "ada")][2] == Purse(3)
    assert not fake.opened


def test_a_server_without_the_storage_says_what_to_write() -> None:
    with pytest.raises(
        ConfigurationError,
        match=r"Account.purse is kept by Purses, and the AppData of the server has none: call"
        r" app_data.set\(Purses\(...\)\) before you make the server",
    ):
        rio.Server(rio.Registry(Account), storage="memory://")


def test_what_app_data_holds_has_to_be_a_storage() -> None:
    app = rio.AppData()
    app.set("no storage", Purses)  # type: ignore[arg-type]
    with pytest.raises(ConfigurationError, match="AppData has 'no storage' under it, which is no"):
        rio.Server(rio.Registry(Account), storage="memory://", app_data=app)


def test_one_typed_storage_keeps_one_state() -> None:
    class Both(rio.ServiceObject):
        one: Purse = rio.managed_state(storage=Purses)
        two: Purse = rio.managed_state(storage=Purses)

    app = rio.AppData()
    app.set(Purses())
    with pytest.raises(ConfigurationError, match=r"keeps one state of one class, and .*Both\.two"):
        rio.Server(rio.Registry(Both), storage="memory://", app_data=app)


@pytest.mark.parametrize("storage", [5, "sqlite:///x.db", int, Purse])
def test_what_is_no_storage_is_refused_when_the_class_is_made(storage: Any) -> None:
    with pytest.raises(BadRegistration, match=r"Wrong.purse: its storage is .*: give a back end"):

        class Wrong(rio.ServiceObject):
            purse: Purse = rio.managed_state(storage=storage)


async def test_a_state_of_another_class_is_corrupt(
    cluster: Cluster, caplog: pytest.LogCaptureFixture
) -> None:
    class Odd(Purses):
        async def load_and_fence(self, object_id: ObjectId, token: int) -> tuple[int, Any]:
            return 1, "no purse"

    app = cluster.app_data()
    app.set(Odd(), Purses)
    client = (await cluster.server(Account, app_data=app)).client
    with pytest.raises(rio.errors.NotActivated, match="has loaded a str for Account/ada"):
        await client.send(Account, "ada", Put(1))
    assert StateCorrupt.__name__ in caplog.text
    caplog.clear()


async def test_a_wrong_value_is_refused_before_a_typed_storage_sees_it(
    cluster: Cluster, caplog: pytest.LogCaptureFixture
) -> None:
    app, purses = cluster.app_data(), Purses()
    app.set(purses)

    class Careless(rio.ServiceObject):
        purse: Purse = rio.managed_state(storage=Purses)

        @rio.handler
        async def put(self, message: Put) -> int:
            self.purse.cents = "three"  # type: ignore[assignment]
            await self.save_state()
            return 0

    client = (await cluster.server(Careless, app_data=app)).client
    with pytest.raises(rio.errors.HandlerFailed, match="BadState"):
        await client.send(Careless, "ada", Put(1))
    assert purses.rows[ObjectId("Careless", "ada")][1:] == (0, None)
    caplog.clear()


def test_the_tool_for_saved_states_says_that_it_cannot_open_such_a_storage(
    tmp_path: Path,
) -> None:
    from rio.cli.saved_states import _own_storages

    registered = rio.Registry(Account)["Account"]
    with pytest.raises(rio.errors.Unsupported, match="which the program itself opens"):
        _own_storages(registered)
    assert issubclass(LocalState, StateStorage)
