"""Storages in the memory of one process: for tests, for trying things out, and as the shortest
statement of each contract.

They keep what they hold over ``close()`` and another ``prepare()``, as a file would, and lose it
when the process ends.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from msgspec.structs import replace

from rio._core.clock import Clock
from rio.contracts.membership import (
    Member,
    MembershipSnapshot,
    MembershipStorage,
    MemberStatus,
    Registered,
    Renewal,
    StatusChange,
    Vote,
    add_vote,
    check_forward,
    check_metadata,
    make_cluster_id,
)
from rio.contracts.placement import ObjectPlacement, Placement
from rio.contracts.state import StateStorage, StoredState
from rio.errors import StateNotFound, Superseded
from rio.identity import ObjectId
from rio.storage._openable import Openable

__all__ = ["LocalMembershipStorage", "LocalObjectPlacement", "LocalState"]


def _loop_time() -> float:
    return asyncio.get_running_loop().time()


class LocalMembershipStorage(Openable, MembershipStorage):
    """Members in a dict.

    All servers of a cluster, and its clients, must be given the same instance. ``clock``: seconds,
    which the numbers of members and versions follow; by default the time of the event loop.
    """

    volatile = True

    def __init__(self, *, clock: Clock | None = None) -> None:
        self._clock = clock or _loop_time
        self._cluster_id = make_cluster_id()
        self._members: dict[int, Member] = {}
        self._version = 0
        self._generation_high = 0
        self._waiting: set[asyncio.Future[None]] = set()

    async def register(self, address: str, metadata: bytes = b"") -> Registered:
        self._check_open()
        check_metadata(metadata)
        for member in self._members.values():
            if member.address == address and not member.status.terminal:
                self._members[member.generation] = replace(member, status=MemberStatus.DEAD)
        self._generation_high = self._next_after(self._generation_high)
        self._raise_version()
        self._members[self._generation_high] = Member(
            self._generation_high, address, MemberStatus.JOINING, metadata=metadata
        )
        return Registered(self._generation_high, self._snapshot())

    async def renew(self, generation: int) -> Renewal | None:
        self._check_open()
        member = self._members.get(generation)
        if member is None or member.status > MemberStatus.DRAINING:
            return None
        counter = member.lease_counter + 1
        self._members[generation] = replace(member, lease_counter=counter)
        return Renewal(counter, self._cluster_id)

    async def snapshot(self) -> MembershipSnapshot:
        self._check_open()
        return self._snapshot()

    async def set_status(
        self,
        generation: int,
        expected: MemberStatus,
        status: MemberStatus,
        *,
        expected_counter: int | None = None,
    ) -> StatusChange:
        self._check_open()
        check_forward(expected, status)
        member = self._members.get(generation)
        if (
            member is None
            or member.status != expected
            or expected_counter not in (None, member.lease_counter)
        ):
            return StatusChange(False, member)
        changed = self._members[generation] = replace(member, status=status)
        self._raise_version()
        return StatusChange(True, changed)

    async def vote(self, generation: int, vote: Vote) -> StatusChange:
        self._check_open()
        member, voter = self._members.get(generation), self._members.get(vote.voter)
        if (
            member is None
            or member.status.terminal
            or voter is None
            or voter.status != MemberStatus.ACTIVE
        ):
            return StatusChange(False, member)
        changed = self._members[generation] = replace(member, votes=add_vote(member.votes, vote))
        return StatusChange(True, changed)

    async def change_cluster_id(self, cluster_id: str) -> MembershipSnapshot:
        self._check_open()
        self._cluster_id = cluster_id
        for member in self._members.values():
            if not member.status.terminal:
                self._members[member.generation] = replace(member, status=MemberStatus.DEAD)
        self._raise_version()
        return self._snapshot()

    async def purge(self, generation: int) -> bool:
        self._check_open()
        member = self._members.get(generation)
        if member is None or not member.status.terminal:
            return False
        del self._members[generation]
        self._raise_version()
        return True

    async def wait_for_change(self, version: int, timeout: float) -> None:
        if self._version <= version:
            change = asyncio.get_running_loop().create_future()
            self._waiting.add(change)
            try:
                await asyncio.wait((change,), timeout=timeout)
            finally:
                self._waiting.discard(change)

    def _next_after(self, high: int) -> int:
        return max(high + 1, int(self._clock() * 1_000_000))

    def _raise_version(self) -> None:
        self._version = self._next_after(self._version)
        for change in self._waiting:
            if not change.done():
                change.set_result(None)

    def _snapshot(self) -> MembershipSnapshot:
        return MembershipSnapshot(
            self._version,
            self._generation_high,
            tuple(self._members.values()),
            self._cluster_id,
        )


class _Adoptable(Openable):
    """A role that knows to which cluster it belongs."""

    _adopted_by = ""

    async def adopt(self, cluster_id: str, *, instead_of: str = "") -> str:
        """As :meth:`rio.contracts.Role.adopt`."""
        self._check_open()
        if self._adopted_by in ("", instead_of):
            self._adopted_by = cluster_id
        return self._adopted_by


class LocalObjectPlacement(_Adoptable, ObjectPlacement):
    """Placements in a dict.

    All servers of a cluster must be given the same instance.
    """

    volatile = True

    def __init__(self) -> None:
        self._placements: dict[ObjectId, Placement] = {}
        self._token_high = 0

    async def claim(
        self, object_id: ObjectId, generation: int, *, supersede: int | None = None
    ) -> Placement:
        self._check_open()
        placement = self._placements.get(object_id)
        if (
            placement is None
            or placement.generation in (None, generation)
            or placement.token == supersede
        ):
            self._token_high += 1
            placement = self._placements[object_id] = Placement(generation, self._token_high)
        return placement

    async def lookup(self, object_id: ObjectId) -> Placement | None:
        self._check_open()
        return self._placements.get(object_id)

    async def release(self, object_id: ObjectId, token: int) -> bool:
        self._check_open()
        placement = self._placements.get(object_id)
        if placement is None or placement.generation is None or placement.token != token:
            return False
        self._placements[object_id] = Placement(None, token)
        return True

    async def owned_by(self, generation: int) -> Sequence[ObjectId]:
        self._check_open()
        return [
            object_id
            for object_id, placement in self._placements.items()
            if placement.generation == generation
        ]


class LocalState(_Adoptable, StateStorage):
    """States in a dict, as the bytes that were saved.

    All servers of a cluster must be given the same instance.
    """

    volatile = True

    def __init__(self) -> None:
        self._states: dict[tuple[ObjectId, str], tuple[int, StoredState]] = {}

    async def load_and_fence(self, object_id: ObjectId, state_name: str, token: int) -> StoredState:
        self._check_open()
        fence, state = self._states.get((object_id, state_name), (token, StoredState(0, b"")))
        if fence > token:
            raise Superseded(
                f"{state_name} of {object_id} was fenced by token {fence}, newer than {token}"
            )
        self._states[object_id, state_name] = token, state
        if state.version == 0:
            raise StateNotFound(f"no {state_name} is stored for {object_id}")
        return state

    async def save(
        self, object_id: ObjectId, state_name: str, token: int, version: int, data: bytes
    ) -> int:
        self._check_open()
        fence, state = self._states.get((object_id, state_name), (None, StoredState(0, b"")))
        if fence != token or state.version != version:
            raise Superseded(
                f"{state_name} of {object_id} was not saved:"
                f" token {token}, version {version} is no longer what is stored"
            )
        self._states[object_id, state_name] = token, StoredState(version + 1, bytes(data))
        return version + 1
