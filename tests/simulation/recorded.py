"""The storage in memory, with a note of each thing that happens to it."""

from __future__ import annotations

from rio.contracts.membership import MembershipSnapshot, MemberStatus, StatusChange
from rio.contracts.placement import Placement
from rio.contracts.state import Batch, StoredObject
from rio.identity import ObjectId
from rio.storage import Storage
from rio.storage.local import LocalMembershipStorage, LocalObjectPlacement, LocalState
from tests.simulation.history import History


def recorded_storage(history: History) -> Storage:
    membership = RecordedMembership(history)
    return Storage(membership, RecordedPlacement(history, membership), RecordedState(history))


class RecordedMembership(LocalMembershipStorage):
    def __init__(self, history: History) -> None:
        super().__init__()
        self._history = history

    def has_ended(self, generation: int) -> bool:
        status = self._snapshot().status_of(generation)
        return status is not None and status.terminal

    async def renew(self, generation: int) -> bool:
        renewed = await super().renew(generation)
        self._history.members(self._snapshot())
        return renewed

    async def set_status(
        self,
        generation: int,
        expected: MemberStatus,
        status: MemberStatus,
        *,
        expected_counter: int | None = None,
    ) -> StatusChange:
        change = await super().set_status(
            generation, expected, status, expected_counter=expected_counter
        )
        self._history.members(self._snapshot())
        return change

    async def snapshot(self) -> MembershipSnapshot:
        snapshot = await super().snapshot()
        self._history.members(snapshot)
        return snapshot


class RecordedPlacement(LocalObjectPlacement):
    def __init__(self, history: History, membership: RecordedMembership) -> None:
        super().__init__()
        self._history = history
        self._membership = membership

    async def claim(
        self, object_id: ObjectId, generation: int, *, supersede: int | None = None
    ) -> Placement:
        before = await self.lookup(object_id)
        after = await super().claim(object_id, generation, supersede=supersede)
        owner = None if before is None else before.generation
        self._history.claimed(
            object_id, before, after, owner is not None and self._membership.has_ended(owner)
        )
        return after


class RecordedState(LocalState):
    def __init__(self, history: History) -> None:
        super().__init__()
        self._history = history

    async def load_object(self, object_id: ObjectId, token: int) -> StoredObject:
        stored = await super().load_object(object_id, token)
        self._history.loaded(object_id, token)
        return stored

    async def commit(self, object_id: ObjectId, token: int, version: int, batch: Batch) -> int:
        saved = await super().commit(object_id, token, version, batch)
        self._history.saved(object_id, token, saved)
        return saved
