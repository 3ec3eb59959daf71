"""The suite for storages that are given states as they are."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any, ClassVar

import pytest

from rio.contracts.state import TypedStateStorage
from rio.errors import StateNotFound, StorageClosed, Superseded
from rio.identity import ObjectId
from rio.testing.conformance._samples import ADA


class TypedStateStorageTests:
    """What every :class:`rio.contracts.TypedStateStorage` must do.

    Subclass it, and give the fixture ``typed_state``: a storage that is prepared and empty, another
    one for each test. ``states`` are at least three different states that it can keep.
    """

    states: ClassVar[Sequence[Any]]
    rounds: ClassVar[int] = 20
    """How often a race is run."""
    other: ClassVar[ObjectId] = ObjectId(ADA.type_name, "another")
    """A second object of the type that the storage keeps."""

    async def _start(self, storage: TypedStateStorage[Any], token: int = 1) -> None:
        """Load an object of which nothing is stored yet."""
        with pytest.raises(StateNotFound):
            await storage.load_and_fence(ADA, token)

    async def test_what_was_saved_is_loaded(self, typed_state: TypedStateStorage[Any]) -> None:
        await self._start(typed_state)
        for version, state in enumerate(self.states):
            assert await typed_state.save(ADA, 1, version, state) == version + 1
            assert await typed_state.load_and_fence(ADA, 1) == (version + 1, state)

    async def test_nothing_is_stored_until_something_was_saved(
        self, typed_state: TypedStateStorage[Any]
    ) -> None:
        for token in (1, 1, 2):
            await self._start(typed_state, token)

    async def test_objects_do_not_touch_each_other(
        self, typed_state: TypedStateStorage[Any]
    ) -> None:
        await self._start(typed_state)
        await typed_state.save(ADA, 1, 0, self.states[0])
        with pytest.raises(StateNotFound):
            await typed_state.load_and_fence(self.other, 2)
        await typed_state.save(self.other, 2, 0, self.states[1])
        assert await typed_state.load_and_fence(ADA, 1) == (1, self.states[0])

    async def test_a_save_after_a_newer_load_is_refused(
        self, typed_state: TypedStateStorage[Any]
    ) -> None:
        await self._start(typed_state)
        await typed_state.save(ADA, 1, 0, self.states[0])
        assert await typed_state.load_and_fence(ADA, 2) == (1, self.states[0])
        with pytest.raises(Superseded):
            await typed_state.save(ADA, 1, 1, self.states[1])
        with pytest.raises(Superseded):
            await typed_state.load_and_fence(ADA, 1)
        assert await typed_state.save(ADA, 2, 1, self.states[2]) == 2
        assert await typed_state.load_and_fence(ADA, 2) == (2, self.states[2])

    async def test_a_load_of_nothing_is_a_fence_too(
        self, typed_state: TypedStateStorage[Any]
    ) -> None:
        await self._start(typed_state, 1)
        await self._start(typed_state, 2)
        with pytest.raises(Superseded):
            await typed_state.save(ADA, 1, 0, self.states[0])
        await self._start(typed_state, 2)

    @pytest.mark.parametrize(("token", "version"), [(2, 1), (4, 1), (3, 0), (3, 2)])
    async def test_a_save_with_another_token_or_version_writes_nothing(
        self, typed_state: TypedStateStorage[Any], token: int, version: int
    ) -> None:
        await self._start(typed_state, 3)
        await typed_state.save(ADA, 3, 0, self.states[0])
        with pytest.raises(Superseded):
            await typed_state.save(ADA, token, version, self.states[1])
        assert await typed_state.load_and_fence(ADA, 3) == (1, self.states[0])

    async def test_a_save_of_what_was_never_loaded_writes_nothing(
        self, typed_state: TypedStateStorage[Any]
    ) -> None:
        with pytest.raises(Superseded):
            await typed_state.save(ADA, 1, 0, self.states[0])
        await self._start(typed_state)

    async def test_tokens_are_compared_in_all_their_bits(
        self, typed_state: TypedStateStorage[Any]
    ) -> None:
        low, high = (1 << 53) + 1, (1 << 53) + 2
        await self._start(typed_state, high)
        with pytest.raises(Superseded):
            await typed_state.save(ADA, low, 0, self.states[0])
        assert await typed_state.save(ADA, high, 0, self.states[0]) == 1

    async def test_of_many_saves_of_one_version_one_wins(
        self, typed_state: TypedStateStorage[Any]
    ) -> None:
        await self._start(typed_state)
        for version in range(self.rounds):
            state = self.states[version % len(self.states)]
            writers = [typed_state.save(ADA, 1, version, state) for _ in range(8)]
            answers = await asyncio.gather(*writers, return_exceptions=True)
            assert answers.count(version + 1) == 1
            assert sum(isinstance(answer, Superseded) for answer in answers) == 7

    async def test_a_save_and_a_newer_load_at_once_never_lose_what_was_acknowledged(
        self, typed_state: TypedStateStorage[Any]
    ) -> None:
        await self._start(typed_state)
        version = await typed_state.save(ADA, 1, 0, self.states[0])
        stored = self.states[0]
        for round in range(self.rounds):
            token, new = round + 1, self.states[(round + 1) % len(self.states)]
            saved, loaded = await asyncio.gather(
                typed_state.save(ADA, token, version, new),
                typed_state.load_and_fence(ADA, token + 1),
                return_exceptions=True,
            )
            if not isinstance(saved, BaseException):
                version, stored = version + 1, new
            else:
                assert isinstance(saved, Superseded)
            assert not isinstance(loaded, BaseException)
            assert await typed_state.load_and_fence(ADA, token + 1) == (version, stored)

    async def test_a_storage_that_is_not_open_says_so_and_not_that_nothing_is_stored(
        self, typed_state: TypedStateStorage[Any]
    ) -> None:
        await self._start(typed_state)
        await typed_state.save(ADA, 1, 0, self.states[0])
        await typed_state.close()
        await typed_state.close()
        with pytest.raises(StorageClosed):
            await typed_state.load_and_fence(ADA, 1)
        with pytest.raises(StorageClosed):
            await typed_state.save(ADA, 1, 1, self.states[1])
        await typed_state.prepare()
        await typed_state.prepare()
