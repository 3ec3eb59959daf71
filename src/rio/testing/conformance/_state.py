"""The suite for storages of states."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import AsyncIterator
from typing import Any, ClassVar

import pytest

from rio.contracts.state import Batch, StateStorage, StoredObject, StoredState
from rio.errors import StorageClosed, Superseded, Unsupported
from rio.identity import ObjectId
from rio.storage import Storage
from rio.testing.conformance._adoption import check_adoption
from rio.testing.conformance._samples import ADA, LOOKALIKES, REAL, SAME_IN_32_BITS

NOTHING = StoredObject(0, {})


def single(data: bytes, name: str = "s") -> Batch:
    """A batch with one state."""
    return Batch({name: StoredState(data)})


def held(version: int, data: bytes, name: str = "s") -> StoredObject:
    """What a storage holds of an object with one state."""
    return StoredObject(version, {name: StoredState(data)})


class StateStorageTests:
    """What every :class:`rio.contracts.StateStorage` must do, with one state of an object.

    Subclass it, and give the fixture ``state``: a storage that is prepared and empty, another one
    for each test. A storage that is ``atomic`` has more to do: tests of several states are skipped
    where it is not.
    """

    rounds: ClassVar[int] = 20
    """How often a race is run."""
    records_cluster: ClassVar[bool] = True
    """Whether :meth:`rio.contracts.Role.adopt` records the cluster."""

    async def test_it_belongs_to_the_cluster_that_adopted_it(self, state: StateStorage) -> None:
        await check_adoption(state, recorded=self.records_cluster)

    async def _start(self, state: StateStorage, token: int = 1, object_id: ObjectId = ADA) -> None:
        """Load an object of which nothing is stored yet."""
        assert await state.load_object(object_id, token) == NOTHING

    async def test_what_was_saved_is_loaded(self, state: StateStorage) -> None:
        await self._start(state)
        assert await state.commit(ADA, 1, 0, single(b"one")) == 1
        assert await state.commit(ADA, 1, 1, single(b"\x00\xff")) == 2
        assert await state.load_object(ADA, 1) == held(2, b"\x00\xff")
        assert await state.load_object(ADA, 2) == held(2, b"\x00\xff")

    @pytest.mark.parametrize(
        "data",
        [b"", b"\x00" * 1000, bytes(range(256)) * 4096, bytes(range(256)) * 16384],
        ids=["empty", "zeros", "1 MiB", "4 MiB"],
    )
    async def test_any_bytes_come_back_as_they_were(self, state: StateStorage, data: bytes) -> None:
        await self._start(state)
        await state.commit(ADA, 1, 0, single(data))
        version, states = await state.load_object(ADA, 1)
        assert version == 1
        assert _outline(states["s"].data) == _outline(data)

    async def test_the_schema_of_a_state_comes_back(self, state: StateStorage) -> None:
        await self._start(state)
        for version, schema in enumerate([3, 0, 1 << 31]):
            saved = {"s": StoredState(b"x", schema)}
            await state.commit(ADA, 1, version, Batch(saved))
            assert await state.load_object(ADA, 1) == StoredObject(version + 1, saved)

    async def test_where_nothing_was_saved_there_is_nothing_time_after_time(
        self, state: StateStorage
    ) -> None:
        for token in (1, 1, 2):
            await self._start(state, token)

    async def test_a_late_save_after_a_newer_load_is_refused(self, state: StateStorage) -> None:
        await self._start(state)
        await state.commit(ADA, 1, 0, single(b"old"))
        assert await state.load_object(ADA, 2) == held(1, b"old")
        with pytest.raises(Superseded):
            await state.commit(ADA, 1, 1, single(b"late"))
        assert await state.commit(ADA, 2, 1, single(b"new")) == 2
        with pytest.raises(Superseded):
            await state.load_object(ADA, 1)
        assert await state.load_object(ADA, 2) == held(2, b"new")

    @pytest.mark.parametrize(("token", "version"), [(2, 1), (4, 1), (3, 0), (3, 2), (2, 0), (4, 0)])
    async def test_a_save_with_another_token_or_version_writes_nothing(
        self, state: StateStorage, token: int, version: int
    ) -> None:
        await self._start(state, 3)
        await state.commit(ADA, 3, 0, single(b"good"))
        with pytest.raises(Superseded):
            await state.commit(ADA, token, version, single(b"bad"))
        assert await state.load_object(ADA, 3) == held(1, b"good")

    async def test_a_save_of_a_version_that_was_never_there_writes_nothing(
        self, state: StateStorage
    ) -> None:
        with pytest.raises(Superseded):
            await state.commit(ADA, 1, 1, single(b"bad"))
        assert await state.load_object(ADA, 1) == NOTHING

    async def test_of_many_saves_of_one_version_one_wins(self, state: StateStorage) -> None:
        await self._start(state)
        for version in range(self.rounds):
            writers = [
                state.commit(ADA, 1, version, single(bytes([writer]))) for writer in range(8)
            ]
            answers = await asyncio.gather(*writers, return_exceptions=True)
            [winner] = [writer for writer, answer in enumerate(answers) if answer == version + 1]
            assert sum(isinstance(answer, Superseded) for answer in answers) == 7
            assert await state.load_object(ADA, 1) == held(version + 1, bytes([winner]))

    async def test_a_save_and_a_newer_load_at_once_never_lose_what_was_acknowledged(
        self, state: StateStorage
    ) -> None:
        for number in range(self.rounds):
            object_id = ObjectId("Race", str(number))
            await self._start(state, 1, object_id)
            await state.commit(object_id, 1, 0, single(b"first"))
            both = [
                state.commit(object_id, 1, 1, single(b"saved")),
                state.load_object(object_id, 2),
            ]
            saved, loaded = await asyncio.gather(
                *(both if number % 2 else reversed(both)), return_exceptions=True
            )
            if number % 2 == 0:
                saved, loaded = loaded, saved
            if saved == 2:
                assert loaded == held(2, b"saved")
            else:
                assert (type(saved), loaded) == (Superseded, held(1, b"first"))

    async def test_tokens_are_compared_in_all_their_bits(self, state: StateStorage) -> None:
        older, newer = REAL, REAL + SAME_IN_32_BITS
        await self._start(state, older)
        await state.commit(ADA, older, 0, single(b"old"))
        for other in (older + SAME_IN_32_BITS, older - SAME_IN_32_BITS, older % SAME_IN_32_BITS):
            with pytest.raises(Superseded):
                await state.commit(ADA, other, 1, single(b"bad"))
        assert await state.load_object(ADA, newer) == held(1, b"old")
        for other in (older, newer - 1):
            with pytest.raises(Superseded):
                await state.load_object(ADA, other)
            with pytest.raises(Superseded):
                await state.commit(ADA, other, 1, single(b"late"))
        assert await state.commit(ADA, newer, 1, single(b"new")) == 2

    async def test_what_the_caller_does_to_a_batch_afterwards_is_not_saved(
        self, state: StateStorage
    ) -> None:
        await self._start(state)
        buffer: Any = bytearray(b"saved")  # not every caller is typed
        states = {"s": StoredState(buffer)}
        await state.commit(ADA, 1, 0, Batch(states))
        buffer[:] = b"later"
        states["s"] = StoredState(b"later")
        states["t"] = StoredState(b"later")
        assert await state.load_object(ADA, 1) == held(1, b"saved")

    async def test_identities_never_meet(self, state: StateStorage) -> None:
        for number, object_id in enumerate(LOOKALIKES):
            await self._start(state, 1, object_id)
            await state.commit(object_id, 1, 0, single(str(number).encode()))
        for number, object_id in enumerate(LOOKALIKES):
            assert await state.load_object(object_id, 1) == held(1, str(number).encode())

    @pytest.mark.parametrize("name", ["s", "S", "s\0", "data", "version", "token", "ä"])
    async def test_a_state_may_have_any_name(self, state: StateStorage, name: str) -> None:
        await self._start(state)
        await state.commit(ADA, 1, 0, single(b"x", name))
        assert await state.load_object(ADA, 2) == held(1, b"x", name)

    async def test_a_cancelled_save_happened_wholly_or_not_at_all(
        self, state: StateStorage
    ) -> None:
        await self._start(state)
        stored = NOTHING
        for number in range(self.rounds):
            data = str(number).encode()
            saving = asyncio.create_task(state.commit(ADA, 1, stored.version, single(data)))
            for _ in range(number % 5 + 1):
                await asyncio.sleep(0)
            saving.cancel()
            await asyncio.wait([saving])
            possible = [stored, held(stored.version + 1, data)]
            stored = await state.load_object(ADA, 1)
            assert stored in possible

    async def test_a_storage_that_is_not_open_says_so_and_not_that_nothing_is_stored(
        self, state: StateStorage
    ) -> None:
        await state.close()
        await state.close()
        with pytest.raises(StorageClosed):
            await state.load_object(ADA, 1)
        with pytest.raises(StorageClosed):
            await state.commit(ADA, 1, 0, single(b""))
        with pytest.raises((StorageClosed, Unsupported)):
            await state.list_objects("Account")

    # --- several states ---------------------------------------------------------------------------

    async def test_states_are_saved_together_and_the_others_stay_as_they_were(
        self, state: StateStorage
    ) -> None:
        _require_atomic(state)
        states = {"a": StoredState(b"1", 7), "b": StoredState(b"2"), "c": StoredState(b"", 1)}
        assert await state.commit(ADA, 1, 0, Batch(states)) == 1
        assert await state.load_object(ADA, 1) == StoredObject(1, states)
        for version, names in enumerate(["b", "ca", "a", "bc", "d", "da"], 1):
            changed = {name: StoredState(f"{name}{version}".encode(), version) for name in names}
            assert await state.commit(ADA, 1, version, Batch(changed)) == version + 1
            states |= changed
            assert await state.load_object(ADA, 1) == StoredObject(version + 1, states)

    async def test_a_second_state_comes_beside_the_first(self, state: StateStorage) -> None:
        _require_atomic(state)
        await state.commit(ADA, 1, 0, single(b"1", "a"))
        await state.commit(ADA, 1, 1, single(b"2", "b"))
        await state.commit(ADA, 1, 2, single(b"3", "a"))
        expected = {"a": StoredState(b"3"), "b": StoredState(b"2")}
        assert await state.load_object(ADA, 2) == StoredObject(3, expected)

    async def test_several_states_under_another_token_or_version_write_nothing(
        self, state: StateStorage
    ) -> None:
        _require_atomic(state)
        good = {"a": StoredState(b"1"), "b": StoredState(b"2")}
        await state.commit(ADA, 3, 0, Batch(good))
        bad = {"b": StoredState(b"bad"), "c": StoredState(b"bad"), "a": StoredState(b"bad")}
        for token, version in [(2, 1), (4, 1), (3, 0), (3, 2), (4, 0)]:
            for batch in (Batch(bad), single(b"bad", "b"), single(b"bad", "c")):
                with pytest.raises(Superseded):
                    await state.commit(ADA, token, version, batch)
        assert await state.load_object(ADA, 3) == StoredObject(1, good)

    async def test_states_that_are_saved_and_loaded_at_once_are_never_torn(
        self, state: StateStorage
    ) -> None:
        _require_atomic(state)
        version = 0
        for number in range(self.rounds):
            object_id = ObjectId("Torn", str(number % 3))
            version = (await state.load_object(object_id, 2 * number)).version
            data = StoredState(str(number).encode())
            names = ["x", "y"] if number < self.rounds // 2 else ["y", "x", "z"]
            saving = state.commit(object_id, 2 * number, version, Batch(dict.fromkeys(names, data)))
            saved, loaded = await asyncio.gather(
                saving, state.load_object(object_id, 2 * number + 1), return_exceptions=True
            )
            assert isinstance(loaded, StoredObject)
            found = {loaded.states.get(name) for name in names}
            if saved == version + 1 and loaded.version == saved:
                assert found == {data}
            else:
                assert data not in found

    async def test_reading_an_object_does_not_take_it_over(self, state: StateStorage) -> None:
        await _require_read(state)
        assert await state.read_object(ADA) == StoredObject(0, {})
        states = {"a": StoredState(b"1", 7)}
        if state.atomic:
            states["b"] = StoredState(b"2")
        for version in range(3):
            await state.commit(ADA, 5, version, Batch(states))
            assert await state.read_object(ADA) == StoredObject(version + 1, states)
        assert await state.load_object(ADA, 5) == StoredObject(3, states)

    # --- rewriting --------------------------------------------------------------------------------

    async def test_a_rewrite_leaves_whoever_has_the_object_loaded_alone(
        self, state: StateStorage
    ) -> None:
        await _require_rewrite(state)
        before, newer = StoredState(b"1"), StoredState(b"one", 2)
        await state.commit(ADA, 5, 0, Batch({"a": before, "b": before}))
        assert await state.rewrite_object(ADA, 1, Batch({"a": newer, "b": newer}))
        assert await state.read_object(ADA) == StoredObject(1, {"a": newer, "b": newer})
        assert await state.rewrite_object(ADA, 1, Batch({"b": before}))
        assert await state.commit(ADA, 5, 1, Batch({"a": before})) == 2
        assert await state.load_object(ADA, 5) == StoredObject(2, {"a": before, "b": before})

    async def test_what_was_saved_meanwhile_is_not_rewritten(self, state: StateStorage) -> None:
        await _require_rewrite(state)
        batch, newer = Batch({"a": StoredState(b"1")}), Batch({"a": StoredState(b"one", 2)})
        assert not await state.rewrite_object(ADA, 1, newer)
        assert not await state.rewrite_object(ADA, 0, newer)
        assert await state.load_object(ADA, 5) == StoredObject(0, {})
        await state.commit(ADA, 5, 0, batch)
        await state.commit(ADA, 5, 1, batch)
        assert not await state.rewrite_object(ADA, 1, newer)
        assert await state.read_object(ADA) == StoredObject(2, batch.states)

    # --- listing ----------------------------------------------------------------------------------

    async def test_the_ids_with_a_saved_state_are_listed_by_pages(
        self, state: StateStorage
    ) -> None:
        await _require_list(state)
        ids = [str(number) for number in range(25)] + ["a", "ab", "b", "ä", "𝄞", "\uffff", "a\0"]
        for id in ids:
            await state.commit(ObjectId("Listed", id), 1, 0, single(b"x"))
        await state.commit(ObjectId("Listedx", "other"), 1, 0, single(b"x"))
        await state.load_object(ObjectId("Listed", "only read"), 1)
        ordered = sorted(ids, key=str.encode)
        assert [id async for id in _pages(state, limit=4)] == ordered
        assert list(await state.list_objects("Listed")) == ordered
        assert list(await state.list_objects("Liste")) == []

    @pytest.mark.parametrize("prefix", ["1", "a", "ab", "x", "", "2", "ä"])
    async def test_a_prefix_narrows_the_listing(self, state: StateStorage, prefix: str) -> None:
        await _require_list(state)
        ids = [str(number) for number in range(25)] + ["a", "ab", "b", "ä", "\uffff"]
        for id in ids:
            await state.commit(ObjectId("Listed", id), 1, 0, single(b"x"))
        wanted = sorted((id for id in ids if id.startswith(prefix)), key=str.encode)
        assert [id async for id in _pages(state, prefix=prefix, limit=3)] == wanted
        assert list(await state.list_objects("Listed", prefix=prefix, after="ä")) == [
            id for id in wanted if id.encode() > "ä".encode()
        ]


class FirstCommitTests:
    """What placement and state must do together if they share a database: only the owner may save
    an object for the first time.

    Subclass it, and give the fixture ``storage``: a :class:`rio.Storage` that is prepared and
    empty, another one for each test.
    """

    rounds: ClassVar[int] = 20
    """How often a race is run."""

    async def test_an_activation_that_was_paused_before_its_first_save_cannot_save_any_more(
        self, storage: Storage
    ) -> None:
        for batch in (single(b"late"), Batch({"a": StoredState(b"l"), "b": StoredState(b"l")})):
            object_id = ObjectId("Paused", str(len(batch.states)))
            paused = await storage.placement.claim(object_id, 1)
            assert await storage.state.load_object(object_id, paused.token) == NOTHING
            successor = await storage.placement.claim(object_id, 2, supersede=paused.token)
            assert await storage.state.load_object(object_id, successor.token) == NOTHING
            with pytest.raises(Superseded):
                await storage.state.commit(object_id, paused.token, 0, batch)
            assert await storage.state.load_object(object_id, successor.token) == NOTHING
            assert await storage.state.commit(object_id, successor.token, 0, batch) == 1

    async def test_what_was_released_cannot_be_saved_for_the_first_time(
        self, storage: Storage
    ) -> None:
        owner = await storage.placement.claim(ADA, 1)
        await storage.placement.release(ADA, owner.token)
        with pytest.raises(Superseded):
            await storage.state.commit(ADA, owner.token, 0, single(b"late"))
        owner = await storage.placement.claim(ADA, 1)
        await storage.placement.release_all(1)
        with pytest.raises(Superseded):
            await storage.state.commit(ADA, owner.token, 0, single(b"late"))

    async def test_a_save_under_an_older_token_is_found_and_not_overwritten(
        self, storage: Storage
    ) -> None:
        first = await storage.placement.claim(ADA, 1)
        await storage.state.commit(ADA, first.token, 0, single(b"good"))
        successor = await storage.placement.claim(ADA, 2, supersede=first.token)
        with pytest.raises(Superseded):
            await storage.state.commit(ADA, successor.token, 0, single(b"bad"))
        assert await storage.state.load_object(ADA, successor.token) == held(1, b"good")

    async def test_a_first_save_at_the_moment_of_a_takeover_is_found_by_the_successor_or_refused(
        self, storage: Storage
    ) -> None:
        async def take_over(object_id: ObjectId, token: int) -> StoredObject:
            taken = await storage.placement.claim(object_id, 2, supersede=token)
            assert taken.generation == 2
            return await storage.state.load_object(object_id, taken.token)

        for number in range(self.rounds):
            objects = [ObjectId("Race", f"{number}-{index}") for index in range(8)]
            owners = [await storage.placement.claim(object_id, 1) for object_id in objects]
            saving = [
                storage.state.commit(object_id, owner.token, 0, single(b"saved"))
                for object_id, owner in zip(objects, owners, strict=True)
            ]
            taking = [
                take_over(object_id, owner.token)
                for object_id, owner in zip(objects, owners, strict=True)
            ]
            answers = await asyncio.gather(*saving, *taking, return_exceptions=True)
            for saved, loaded in zip(answers[:8], answers[8:], strict=True):
                if saved == 1:
                    assert loaded == held(1, b"saved")
                else:
                    assert (type(saved), loaded) == (Superseded, NOTHING)


def _require_atomic(state: StateStorage) -> None:
    if not state.atomic:
        pytest.skip("the storage keeps one state of an object")


async def _require_list(state: StateStorage) -> None:
    try:
        await state.list_objects("Listed")
    except Unsupported:
        pytest.skip("the storage cannot list")


async def _require_read(state: StateStorage) -> None:
    try:
        await state.read_object(ADA)
    except Unsupported:
        pytest.skip("the storage cannot read without a fence")


async def _require_rewrite(state: StateStorage) -> None:
    try:
        await state.rewrite_object(ADA, 1, Batch({}))
    except Unsupported:
        pytest.skip("the storage cannot rewrite without a fence")


async def _pages(state: StateStorage, *, prefix: str = "", limit: int) -> AsyncIterator[str]:
    """All ids, read by pages."""
    after = ""
    while page := await state.list_objects("Listed", prefix=prefix, after=after, limit=limit):
        assert len(page) <= limit
        for id in page:
            yield id
        after = page[-1]


def _outline(data: bytes) -> tuple[int, str, bytes]:
    """What tells long data apart: in CI pytest compares values line by line, which takes minutes
    for a MiB.
    """
    return len(data), hashlib.sha256(data).hexdigest(), data[:32]
