"""Storages in the memory of one process: for tests, for trying things out, and as the shortest
statement of each contract.

They keep what they hold over ``close()`` and another ``prepare()``, as a file would, and lose it
when the process ends.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Mapping, Sequence

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
    check_manifest,
    check_metadata,
    digest_manifest,
    make_cluster_id,
)
from rio.contracts.placement import ObjectPlacement, Placement
from rio.contracts.state import Batch, StateStorage, StoredObject, StoredState
from rio.errors import Superseded
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
        self._manifests: dict[int, bytes] = {}
        self._settings = b""
        self._version = 0
        self._generation_high = 0
        self._waiting: set[asyncio.Future[None]] = set()

    async def register(
        self, address: str, metadata: bytes = b"", manifest: bytes = b""
    ) -> Registered:
        self._check_open()
        check_metadata(metadata)
        check_manifest(manifest)
        for member in self._members.values():
            if member.address == address and not member.status.terminal:
                self._members[member.generation] = replace(member, status=MemberStatus.DEAD)
        self._generation_high = self._next_after(self._generation_high)
        self._raise_version()
        self._members[self._generation_high] = Member(
            self._generation_high,
            address,
            MemberStatus.JOINING,
            metadata=metadata,
            manifest_digest=digest_manifest(manifest),
        )
        self._manifests[self._generation_high] = manifest
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

    async def set_manifest(self, generation: int, manifest: bytes) -> bool:
        self._check_open()
        check_manifest(manifest)
        member = self._members.get(generation)
        if member is None or member.status.terminal:
            return False
        digest = digest_manifest(manifest)
        self._members[generation] = replace(member, manifest_digest=digest)
        self._manifests[generation] = manifest
        self._raise_version()
        return True

    async def read_manifests(self, generations: Sequence[int]) -> dict[int, bytes]:
        self._check_open()
        return {
            generation: self._manifests[generation]
            for generation in generations
            if generation in self._manifests
        }

    async def set_settings(self, settings: bytes, version: int) -> bool:
        self._check_open()
        if version != self._version:
            return False
        self._settings = settings
        self._raise_version()
        return True

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
        del self._members[generation], self._manifests[generation]
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
            self._settings,
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

    All servers of a cluster must be given the same instance. ``clock``: seconds since 1970.
    """

    volatile = True

    def __init__(self, *, clock: Callable[[], float] = time.time) -> None:
        self._placements: dict[ObjectId, Placement] = {}
        self._token_high = 0
        self._clock = clock

    async def claim(
        self, object_id: ObjectId, generation: int, *, supersede: int | None = None
    ) -> Placement:
        self._check_open()
        placement = self._placements.get(object_id)
        if placement is None or generation == placement.generation or supersede == placement.token:
            placement = self._placements[object_id] = Placement(generation, self._next_token())
        return placement

    async def lookup(self, object_id: ObjectId) -> Placement | None:
        self._check_open()
        return self._placements.get(object_id)

    async def release(self, object_id: ObjectId, token: int) -> bool:
        self._check_open()
        if not self._names(object_id, token):
            return False
        del self._placements[object_id]
        return True

    async def release_all(self, generation: int) -> int:
        objects = await self.owned_by(generation)
        for object_id in objects:
            del self._placements[object_id]
        return len(objects)

    async def owned_by(self, generation: int) -> Sequence[ObjectId]:
        self._check_open()
        return [
            object_id
            for object_id, placement in self._placements.items()
            if placement.generation == generation
        ]

    def _next_token(self) -> int:
        self._token_high = max(self._token_high + 1, int(self._clock() * 1e6))
        return self._token_high

    def _names(self, object_id: ObjectId, token: int) -> bool:
        """Whether this token owns the object."""
        placement = self._placements.get(object_id)
        return placement is not None and placement.token == token


class LocalState(_Adoptable, StateStorage):
    """States in a dict, as the bytes that were saved.

    All servers of a cluster must be given the same instance.
    """

    volatile = True

    def __init__(self) -> None:
        self._objects: dict[ObjectId, tuple[int, StoredObject]] = {}
        """The fence of each object, and what is stored of it."""
        self._placement: LocalObjectPlacement | None = None

    def use_placement(self, placement: ObjectPlacement) -> None:
        self._placement = placement if isinstance(placement, LocalObjectPlacement) else None

    async def load_object(self, object_id: ObjectId, token: int) -> StoredObject:
        self._check_open()
        if object_id not in self._objects:
            return StoredObject(0, {})
        fence, stored = self._objects[object_id]
        if fence > token:
            raise Superseded(f"{object_id} was fenced by token {fence}, newer than {token}")
        self._objects[object_id] = token, stored
        return stored

    async def read_object(self, object_id: ObjectId) -> StoredObject:
        self._check_open()
        _, stored = self._objects.get(object_id, (0, StoredObject(0, {})))
        return stored

    async def commit(self, object_id: ObjectId, token: int, version: int, batch: Batch) -> int:
        self._check_open()
        fence, stored = self._objects.get(object_id) or self._first(object_id, token)
        if fence != token or stored.version != version:
            raise Superseded(
                f"{object_id} was not saved:"
                f" token {token}, version {version} is no longer what is stored"
            )
        states = {**stored.states, **_copied(batch.states)}
        self._objects[object_id] = token, StoredObject(version + 1, states)
        return version + 1

    async def rewrite_object(self, object_id: ObjectId, version: int, batch: Batch) -> bool:
        self._check_open()
        fence, stored = self._objects.get(object_id, (0, StoredObject(0, {})))
        if not version or stored.version != version:
            return False
        states = {**stored.states, **_copied(batch.states)}
        self._objects[object_id] = fence, StoredObject(version, states)
        return True

    async def list_objects(
        self, type_name: str, *, prefix: str = "", after: str = "", limit: int = 1000
    ) -> Sequence[str]:
        self._check_open()
        ids = sorted(
            object_id.id
            for object_id in self._objects
            if object_id.type_name == type_name and object_id.id.startswith(prefix)
        )
        return [id for id in ids if id > after][:limit]

    def _first(self, object_id: ObjectId, token: int) -> tuple[int, StoredObject]:
        """The fence of an object that was never saved: whom its placement names, if it is here."""
        placement = self._placement
        is_owner = placement is None or placement._names(object_id, token)
        return token if is_owner else -1, StoredObject(0, {})


def _copied(states: Mapping[str, StoredState]) -> dict[str, StoredState]:
    return {name: StoredState(bytes(data), schema) for name, (data, schema) in states.items()}
