"""A storage behind a slow, closed or lossy link does what a database does, and nothing else."""

from __future__ import annotations

import asyncio
import contextlib
import random
from collections.abc import AsyncIterator, Awaitable
from typing import Any

import pytest

from rio.contracts.placement import ObjectPlacement
from rio.contracts.roles import ROLES
from rio.contracts.state import Batch, StateStorage, StoredState
from rio.errors import StorageUnavailable, Superseded
from rio.identity import ObjectId
from rio.storage import Storage, open_storage
from rio.storage.local import LocalMembershipStorage
from rio.testing import StorageFaults, conformance, run

ADA = ObjectId("Account", "ada")


def with_faults(test: Any) -> None:
    """Run ``test(faults, storage through them, the storage itself)`` in virtual time."""

    async def main() -> None:
        faults = StorageFaults(random.Random(1))
        async with open_storage("memory://") as storage:
            await test(faults, faults.wrap(storage), storage)
            await faults.settle()

    run(main())


async def refused(request: Awaitable[Any], text: str) -> float:
    """The storage is unavailable; the seconds until it says so."""
    began = asyncio.get_running_loop().time()
    with pytest.raises(StorageUnavailable, match=text):
        await request
    return asyncio.get_running_loop().time() - began


def test_a_request_and_its_answer_take_their_time() -> None:
    async def test(faults: StorageFaults, faulty: Storage, storage: Storage) -> None:
        faults.delay = 0.5
        claim = asyncio.create_task(faulty.placement.claim(ADA, 1))
        await asyncio.sleep(0.4)
        assert await storage.placement.lookup(ADA) is None
        await asyncio.sleep(0.2)
        assert await storage.placement.lookup(ADA) is not None
        assert not claim.done()
        assert (await claim).generation == 1
        assert asyncio.get_running_loop().time() == 1.0

    with_faults(test)


def test_delays_can_be_drawn_for_each_way() -> None:
    async def test(faults: StorageFaults, faulty: Storage, storage: Storage) -> None:
        faults.delay = iter([0.25, 0.5]).__next__
        await faulty.membership.snapshot()
        assert asyncio.get_running_loop().time() == 0.75

    with_faults(test)


def test_an_unavailable_storage_refuses_at_once_and_does_nothing() -> None:
    async def test(faults: StorageFaults, faulty: Storage, storage: Storage) -> None:
        faults.unavailable = True
        assert await refused(faulty.placement.claim(ADA, 1), "unavailable") == 0.0
        faults.heal()
        assert await faulty.placement.lookup(ADA) is None
        assert faults.requests == 2

    with_faults(test)


def test_a_silent_storage_lets_its_callers_wait_and_carries_out_later_what_it_was_asked() -> None:
    async def test(faults: StorageFaults, faulty: Storage, storage: Storage) -> None:
        faults.silent = True
        assert await refused(faulty.placement.claim(ADA, 1), "did not answer within 2 s") == 2.0
        assert await storage.placement.lookup(ADA) is None
        faults.silent = False
        await faults.settle()
        assert await storage.placement.lookup(ADA) is not None

    with_faults(test)


def test_an_answer_that_comes_in_time_after_a_silence_is_heard() -> None:
    async def test(faults: StorageFaults, faulty: Storage, storage: Storage) -> None:
        faults.silent = True
        claim = asyncio.create_task(faulty.placement.claim(ADA, 1))
        await asyncio.sleep(1.9)
        faults.heal()
        assert (await claim).generation == 1

    with_faults(test)


def test_after_a_lost_answer_the_work_is_done_and_nobody_knows() -> None:
    async def test(faults: StorageFaults, faulty: Storage, storage: Storage) -> None:
        faults.lost_answers = 1.0
        await refused(faulty.placement.claim(ADA, 1), "before the storage answered")
        assert await storage.placement.lookup(ADA) is not None

    with_faults(test)


def test_what_a_caller_gives_up_is_carried_out_all_the_same() -> None:
    async def test(faults: StorageFaults, faulty: Storage, storage: Storage) -> None:
        faults.delay = 0.5
        claim = asyncio.create_task(faulty.placement.claim(ADA, 1))
        await asyncio.sleep(0.1)
        claim.cancel()
        await asyncio.gather(claim, return_exceptions=True)
        await faults.settle()
        assert await storage.placement.lookup(ADA) is not None

    with_faults(test)


def test_a_node_that_was_cut_off_hears_nothing_more_not_even_after_healing() -> None:
    async def test(faults: StorageFaults, faulty: Storage, storage: Storage) -> None:
        faults.delay = 0.5
        claim = asyncio.create_task(faulty.placement.claim(ADA, 1))
        await asyncio.sleep(0.1)
        faults.cut_off()
        assert await refused(claim, "the connection to the storage is gone") == 0.0
        faults.heal()
        assert await refused(faulty.placement.lookup(ADA), "unavailable") == 0.0
        await faults.settle()
        # the request had been sent, and was carried out
        assert await storage.placement.lookup(ADA) is not None

    with_faults(test)


class Told(LocalMembershipStorage):
    """Hears of changes, forgets, and is the second of its kind."""

    why_not_durable = "it forgets"
    history = "the second"

    def __init__(self) -> None:
        super().__init__()
        self.changed = asyncio.Event()

    async def wait_for_change(self, version: int, timeout: float) -> None:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(timeout):
                await self.changed.wait()


def test_what_a_storage_says_and_hears_passes_through() -> None:
    async def main() -> None:
        faults, told = StorageFaults(random.Random(1)), Told()
        async with open_storage("memory://", membership=told) as storage:
            membership = faults.wrap(storage).membership
            assert membership.why_not_durable == "it forgets"
            assert membership.history == "the second"
            assert membership.volatile is True
            asyncio.get_running_loop().call_later(30.0, told.changed.set)
            await membership.wait_for_change(0, 100.0)
            assert asyncio.get_running_loop().time() == 30.0
            faults.unavailable = True
            await membership.wait_for_change(0, 100.0)
            assert asyncio.get_running_loop().time() == 130.0

    run(main())


def test_each_method_and_property_of_a_contract_passes_through() -> None:
    async def main() -> None:
        async with open_storage("memory://") as storage:
            faulty = StorageFaults(random.Random(1)).wrap(storage)
            for role in ROLES:
                passing = vars(type(getattr(faulty, role.name)))
                members = {name for name in dir(role.contract) if not name.startswith("_")}
                assert members <= passing.keys()

    run(main())


def test_errors_of_the_storage_itself_arrive_as_they_are() -> None:
    async def test(faults: StorageFaults, faulty: Storage, storage: Storage) -> None:
        with pytest.raises(Superseded):
            await faulty.state.commit(ADA, 1, 1, Batch({"s": StoredState(b"")}))
        with pytest.raises(ValueError, match="the limit is 128"):
            await faulty.membership.register("a:1", bytes(200))

    with_faults(test)


# --- without a fault it is the storage ------------------------------------------------------------


@pytest.fixture
async def faulty() -> AsyncIterator[Storage]:
    faults = StorageFaults(delay=0.0)
    async with open_storage("memory://") as storage:
        faulty = faults.wrap(storage)
        storage.state.use_placement(faulty.placement)  # so that states are tried without claims
        yield faulty
        await faults.settle()


class TestMembership(conformance.MembershipStorageTests):
    @pytest.fixture
    def membership(self, faulty: Storage) -> Any:
        return faulty.membership

    test_a_storage_that_is_not_open_says_so = (
        None  # the storage belongs to its maker, and is not closed here
    )


class TestPlacement(conformance.ObjectPlacementTests):
    @pytest.fixture
    def placement(self, faulty: Storage) -> ObjectPlacement:
        return faulty.placement

    test_a_storage_that_is_not_open_says_so_and_not_that_nothing_is_placed = None


class TestState(conformance.StateStorageTests):
    @pytest.fixture
    def state(self, faulty: Storage) -> StateStorage:
        return faulty.state

    test_a_storage_that_is_not_open_says_so_and_not_that_nothing_is_stored = None
