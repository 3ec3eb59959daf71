"""The suite for storages of states."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Iterator
from typing import ClassVar

import pytest

from rio.contracts.state import StateStorage, StoredState
from rio.errors import StateNotFound, StorageClosed, Superseded
from rio.identity import ObjectId
from rio.testing.conformance._adoption import check_adoption
from rio.testing.conformance._samples import ADA, LOOKALIKES


class StateStorageTests:
    """What every :class:`rio.contracts.StateStorage` must do.

    Subclass it, and give the fixture ``state``: a storage that is prepared and empty, another one
    for each test.
    """

    rounds: ClassVar[int] = 20
    """How often a race is run."""
    records_cluster: ClassVar[bool] = True
    """Whether :meth:`rio.contracts.Role.adopt` records the cluster."""

    async def test_it_belongs_to_the_cluster_that_adopted_it(self, state: StateStorage) -> None:
        await check_adoption(state, recorded=self.records_cluster)

    async def _fence(self, state: StateStorage, token: int, object_id: ObjectId = ADA) -> None:
        """Lay a fence where nothing is stored yet."""
        with pytest.raises(StateNotFound):
            await state.load_and_fence(object_id, "s", token)

    async def test_what_was_saved_is_loaded(self, state: StateStorage) -> None:
        await self._fence(state, 1)
        assert await state.save(ADA, "s", 1, 0, b"one") == 1
        assert await state.save(ADA, "s", 1, 1, b"\x00\xff") == 2
        assert await state.load_and_fence(ADA, "s", 1) == StoredState(2, b"\x00\xff")
        assert await state.load_and_fence(ADA, "s", 2) == StoredState(2, b"\x00\xff")

    @pytest.mark.parametrize(
        "data", [b"", b"\x00" * 1000, bytes(range(256)) * 4096], ids=["empty", "zeros", "1 MiB"]
    )
    async def test_any_bytes_come_back_as_they_were(self, state: StateStorage, data: bytes) -> None:
        await self._fence(state, 1)
        await state.save(ADA, "s", 1, 0, data)
        version, found = await state.load_and_fence(ADA, "s", 1)
        assert version == 1
        assert _outline(found) == _outline(data)

    async def test_where_nothing_was_saved_it_is_not_found_time_after_time(
        self, state: StateStorage
    ) -> None:
        for token in (1, 1, 2):
            await self._fence(state, token)

    async def test_a_fence_laid_on_nothing_refuses_older_tokens(self, state: StateStorage) -> None:
        await self._fence(state, 2)
        with pytest.raises(Superseded):
            await state.save(ADA, "s", 1, 0, b"late")
        with pytest.raises(Superseded):
            await state.load_and_fence(ADA, "s", 1)
        await self._fence(state, 2)

    async def test_a_late_save_after_a_newer_load_is_refused(self, state: StateStorage) -> None:
        await self._fence(state, 1)
        await state.save(ADA, "s", 1, 0, b"old")
        assert await state.load_and_fence(ADA, "s", 2) == StoredState(1, b"old")
        with pytest.raises(Superseded):
            await state.save(ADA, "s", 1, 1, b"late")
        assert await state.save(ADA, "s", 2, 1, b"new") == 2
        with pytest.raises(Superseded):
            await state.load_and_fence(ADA, "s", 1)
        assert await state.load_and_fence(ADA, "s", 2) == StoredState(2, b"new")

    @pytest.mark.parametrize(("token", "version"), [(2, 1), (4, 1), (3, 0), (3, 2), (2, 0)])
    async def test_a_save_with_another_token_or_version_writes_nothing(
        self, state: StateStorage, token: int, version: int
    ) -> None:
        await self._fence(state, 3)
        await state.save(ADA, "s", 3, 0, b"good")
        with pytest.raises(Superseded):
            await state.save(ADA, "s", token, version, b"bad")
        assert await state.load_and_fence(ADA, "s", 3) == StoredState(1, b"good")

    async def test_a_save_without_a_fence_is_refused(self, state: StateStorage) -> None:
        with pytest.raises(Superseded):
            await state.save(ADA, "s", 1, 0, b"blind")
        await self._fence(state, 1)

    async def test_of_many_saves_of_one_version_one_wins(self, state: StateStorage) -> None:
        await self._fence(state, 1)
        for version in range(self.rounds):
            writers = [state.save(ADA, "s", 1, version, bytes([writer])) for writer in range(8)]
            answers = await asyncio.gather(*writers, return_exceptions=True)
            [winner] = [writer for writer, answer in enumerate(answers) if answer == version + 1]
            assert sum(isinstance(answer, Superseded) for answer in answers) == 7
            assert await state.load_and_fence(ADA, "s", 1) == StoredState(
                version + 1, bytes([winner])
            )

    async def test_a_save_and_a_newer_fence_at_once_never_lose_what_was_acknowledged(
        self, state: StateStorage
    ) -> None:
        for number in range(self.rounds):
            object_id = ObjectId("Race", str(number))
            await self._fence(state, 1, object_id)
            both = [
                state.save(object_id, "s", 1, 0, b"saved"),
                state.load_and_fence(object_id, "s", 2),
            ]
            saved, loaded = await asyncio.gather(
                *(both if number % 2 else reversed(both)), return_exceptions=True
            )
            if number % 2 == 0:
                saved, loaded = loaded, saved
            if saved == 1:
                assert loaded == StoredState(1, b"saved")
            else:
                assert (type(saved), type(loaded)) == (Superseded, StateNotFound)

    async def test_identities_and_names_never_meet(self, state: StateStorage) -> None:
        keys = list(self._keys())
        for number, (object_id, name) in enumerate(keys):
            with pytest.raises(StateNotFound):
                await state.load_and_fence(object_id, name, 1)
            await state.save(object_id, name, 1, 0, str(number).encode())
        for number, (object_id, name) in enumerate(keys):
            assert await state.load_and_fence(object_id, name, 1) == StoredState(
                1, str(number).encode()
            )

    async def test_a_cancelled_save_happened_wholly_or_not_at_all(
        self, state: StateStorage
    ) -> None:
        await self._fence(state, 1)
        stored = StoredState(0, b"")
        for number in range(self.rounds):
            saving = asyncio.create_task(
                state.save(ADA, "s", 1, stored.version, data := str(number).encode())
            )
            for _ in range(number % 5 + 1):
                await asyncio.sleep(0)
            saving.cancel()
            await asyncio.wait([saving])
            possible = {stored, StoredState(stored.version + 1, data)}
            stored = await self._stored(state)
            assert stored in possible

    async def test_a_storage_that_is_not_open_says_so_and_not_that_nothing_is_stored(
        self, state: StateStorage
    ) -> None:
        await state.close()
        await state.close()
        with pytest.raises(StorageClosed):
            await state.load_and_fence(ADA, "s", 1)
        with pytest.raises(StorageClosed):
            await state.save(ADA, "s", 1, 0, b"")

    @staticmethod
    async def _stored(state: StateStorage) -> StoredState:
        try:
            return await state.load_and_fence(ADA, "s", 1)
        except StateNotFound:
            return StoredState(0, b"")

    @staticmethod
    def _keys() -> Iterator[tuple[ObjectId, str]]:
        for object_id in LOOKALIKES:
            yield object_id, "s"
        yield ObjectId("a", "b"), "c"
        yield ObjectId("a", "b:c"), "c"
        yield ObjectId("a", "b"), "c:c"
        yield ObjectId("a", "c"), "S"
        yield ObjectId("a", "c"), "s\0"


def _outline(data: bytes) -> tuple[int, str, bytes]:
    """What tells long data apart: in CI pytest compares values line by line, which takes minutes
    for a MiB.
    """
    return len(data), hashlib.sha256(data).hexdigest(), data[:32]
