"""Reading what nobody wrote leaves no row, and only the owner of an object writes its first."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import pytest

import rio
from rio.contracts.state import Batch, StoredState
from rio.errors import Superseded
from rio.identity import ObjectId
from rio.storage import Storage, open_storage
from tests.server.harness import until

pytestmark = pytest.mark.servers


class Number(rio.State):
    value: int = 0


class SetAll(rio.Message[None]):
    value: int


class GetAll(rio.Message[list[int]], readonly=True):
    pass


class Quiet(rio.ServiceObject):
    a: Number = rio.managed_state()
    b: Number = rio.managed_state()

    @rio.handler
    async def set_all(self, message: SetAll) -> None:
        self.a.value = self.b.value = message.value
        await self.save_state()

    @rio.handler
    async def get_all(self, message: GetAll) -> list[int]:
        return [self.a.value, self.b.value]


@pytest.fixture(params=["memory", "sqlite_url", "postgres_url", "redis_url"])
def url(request: pytest.FixtureRequest) -> str:
    if request.param == "memory":
        return "memory://"
    found: str = request.getfixturevalue(request.param)
    return found


async def test_reading_what_nobody_wrote_leaves_nothing_behind(url: str) -> None:
    ids = [str(number) for number in range(200)]
    async with (
        open_storage(url) as storage,
        rio.Server(rio.Registry(Quiet), storage=storage, cluster="local") as server,
    ):
        client = server.client
        answers = await asyncio.gather(*(client.send(Quiet, id, GetAll()) for id in ids))
        assert answers == [[0, 0]] * len(ids)
        await client.send(Quiet, "saved", SetAll(1))
        generation = server.generation
        for id in ids:
            await client.admin(rio.AdminCommand.shutdown(Quiet, id))
        await until(lambda: server.statistics().live_objects == 1)
        assert await left_in(storage, generation) == ([ObjectId("Quiet", "saved")], ["saved"])
        assert await storage.placement.lookup(ObjectId("Quiet", "7")) is None


async def left_in(storage: Storage, generation: int) -> tuple[Sequence[ObjectId], Sequence[str]]:
    """The placements of a member, and the ids with a saved state."""
    placed = list(await storage.placement.owned_by(generation))
    return placed, list(await storage.state.list_objects("Quiet"))


async def test_the_first_save_of_a_paused_activation_is_refused_and_the_object_loaded_again(
    url: str,
) -> None:
    async with (
        open_storage(url) as storage,
        rio.Server(rio.Registry(Quiet), storage=storage, cluster="local") as server,
    ):
        client, object_id = server.client, ObjectId("Quiet", "x")
        assert await client.send(Quiet, "x", GetAll()) == [0, 0]
        standing = await storage.placement.lookup(object_id)
        assert standing is not None
        # another server has taken it over, found nothing, saved it and is gone
        taken = await storage.placement.claim(object_id, 4711, supersede=standing.token)
        assert (await storage.state.load_object(object_id, taken.token)).version == 0
        with pytest.raises(Superseded):
            await client.send(Quiet, "x", SetAll(1))
        number = StoredState(b"\x81\xa5value\x07")
        assert (
            await storage.state.commit(object_id, taken.token, 0, Batch({"a": number, "b": number}))
            == 1
        )
        await storage.placement.release(object_id, taken.token)
        assert await client.send(Quiet, "x", GetAll()) == [7, 7]
