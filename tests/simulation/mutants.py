"""Planted mistakes, which show that the rules of the simulation find mistakes.

Each is a switch: ``with blind_claim(): ...`` breaks the rule of that name in this process. The core
is compiled, so each is put in at a seam in Python.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from typing import Any
from unittest import mock

import msgpack
from msgspec.structs import force_setattr, replace

from rio._core.wire import Kind
from rio.client import retry
from rio.client.retry import Next
from rio.cluster import lease
from rio.cluster.config import ClusterConfig
from rio.cluster.gossip.suspicion import Suspicions
from rio.cluster.peer_to_peer import PeerToPeerClusterProvider
from rio.cluster.provider import ClusterProvider
from rio.cluster.settings import Admission, SettingsRow, decode_row
from rio.contracts.membership import MembershipStorage, MemberStatus, Renewal
from rio.contracts.placement import Placement
from rio.contracts.state import Batch, StoredObject
from rio.errors import (
    OutcomeUnknown,
    RioError,
    StorageError,
    StorageUnavailable,
    Superseded,
)
from rio.objects.state_codec import StateCodec
from rio.server import states
from rio.server.activation import Activation
from rio.server.audit import LiveObjects
from rio.server.catalog import Catalog
from rio.server.ownership import Ownership
from rio.server.versions import Versions
from rio.storage._migrations import SchemaStatus
from rio.storage.local import LocalMembershipStorage, LocalObjectPlacement, LocalState
from rio.transport.client_connection import ClientConnection

Mutant = Callable[[], AbstractContextManager[Any]]


def blind_claim() -> AbstractContextManager[Any]:
    """M1: a claim overwrites what is stored, as an upsert does."""

    async def claim(
        self: Any, object_id: Any, generation: int, *, supersede: int | None = None
    ) -> Placement:
        placement = self._placements[object_id] = Placement(generation, self._next_token())
        return placement

    return mock.patch.object(LocalObjectPlacement, "claim", claim)


def evict_without_counter() -> AbstractContextManager[Any]:
    """M2: an eviction does not ask whether the member has renewed meanwhile. The storage tells of
    no changes, or the member would hear of it at once.
    """

    async def evict(self: Any, member: Any) -> None:
        await self._calls.run(
            self._storage.set_status(member.generation, member.status, MemberStatus.DEAD)
        )

    stack = ExitStack()
    stack.enter_context(mock.patch.object(PeerToPeerClusterProvider, "_evict", evict))
    stack.enter_context(
        mock.patch.object(
            LocalMembershipStorage, "wait_for_change", MembershipStorage.wait_for_change
        )
    )
    return stack


def lease_from_the_reply() -> AbstractContextManager[Any]:
    """M3: the lease runs from the answer to a renewal, and not from its sending."""

    async def renew(self: Any) -> None:
        if await self._calls.run(self._storage.renew(self.generation)):
            self._extend(self._clock())
        else:
            self._lost("is not live any more")

    return mock.patch.object(PeerToPeerClusterProvider, "_renew", renew)


def evict_within_the_lease(config: ClusterConfig) -> ClusterConfig:
    """M4: others evict before the lease has run out. No user can make these settings."""
    mutant = replace(config)
    force_setattr(mutant, "lease_evict", 0.6 * config.lease_local)
    return mutant


def no_gap_rule() -> AbstractContextManager[Any]:
    """M5: an observer takes a time without its storage for silence of the others."""
    return mock.patch.multiple(lease, GAP_POLLS=1e9)


@contextmanager
def two_flights() -> Iterator[None]:
    """M6: each request during an activation activates the object again; the last one stays."""
    activate, finish = Catalog.activate, Activation.activate

    def activate_again(self: Any, turn: Any) -> None:
        activate(self, turn)
        turn.table.mailboxes.pop(turn.id, None)

    async def finish_and_replace(self: Any) -> None:
        await finish(self)
        if self.open:
            self.table.mailboxes[self.id] = self

    with (
        mock.patch.object(Catalog, "activate", activate_again),
        mock.patch.object(Activation, "activate", finish_and_replace),
    ):
        yield


def save_without_token() -> AbstractContextManager[Any]:
    """M7: a save is checked by its version only, and not by the token of the activation."""

    async def commit(self: Any, object_id: Any, token: int, version: int, batch: Batch) -> int:
        fence, stored = self._objects.get(object_id, (token, StoredObject(0, {})))
        if stored.version != version:
            raise Superseded("another version")
        states = {**stored.states, **batch.states}
        self._objects[object_id] = fence, StoredObject(version + 1, states)
        return version + 1

    return mock.patch.object(LocalState, "commit", commit)


def default_after_a_failed_load() -> AbstractContextManager[Any]:
    """M8: an object whose state could not be read starts with nothing."""
    load = states.load

    async def load_or_default(owner: Any, attributes: tuple[str, ...]) -> None:
        try:
            await load(owner, attributes)
        except StorageUnavailable:
            for storage, fields in states._chosen(owner, attributes):
                owner.versions = {**(owner.versions or {}), storage: 0}
                for field in fields:
                    setattr(owner.instance, field.attribute, field.state_type())

    return mock.patch.object(states, "load", load_or_default)


def first_save_without_the_placement() -> AbstractContextManager[Any]:
    """M16: who saves an object for the first time need not own it."""

    def first(self: Any, object_id: Any, token: int) -> tuple[int, StoredObject]:
        return token, StoredObject(0, {})

    return mock.patch.object(LocalState, "_first", first)


def retry_the_unknown() -> AbstractContextManager[Any]:
    """M9: a call that may have run is sent again, whatever its message says."""
    decide = retry.decide

    def repeat(error: RioError, *, repeatable: bool) -> Next:
        return (
            Next.LATER
            if isinstance(error, OutcomeUnknown)
            else decide(error, repeatable=repeatable)
        )

    return mock.patch.object(retry, "decide", repeat)


@contextmanager
def any_reply() -> Iterator[None]:
    """M10: a reply goes to the caller that waits longest, whatever its number."""
    made, updated = ClientConnection.connection_made, ClientConnection.buffer_updated

    def connection_made(self: Any, transport: Any) -> None:
        self._mutant = _Renumbering(transport)
        made(self, self._mutant)

    def get_buffer(self: Any, sizehint: int) -> bytearray:
        return self._mutant.room

    def buffer_updated(self: Any, nbytes: int) -> None:
        for frame in self._mutant.renumbered(nbytes):
            memoryview(self.reader)[: len(frame)] = frame
            updated(self, len(frame))

    mutants = {
        "connection_made": connection_made,
        "get_buffer": get_buffer,
        "buffer_updated": buffer_updated,
    }
    with mock.patch.multiple(ClientConnection, create=True, **mutants):
        yield


class _Renumbering:
    """A transport that knows the numbers that wait, and gives them to replies in that order."""

    def __init__(self, transport: Any) -> None:
        self.room = bytearray(65536)
        self._transport = transport
        self._waiting: dict[int, None] = {}
        self._sent = b""
        self._received = b""

    def write(self, data: bytes) -> None:
        self._sent += data
        while (frame := self._next("_sent")) is not None:
            kind, number = msgpack.unpackb(frame, raw=True, strict_map_key=False)[:2]
            if kind == Kind.REQUEST:
                self._waiting[number] = None
            elif kind == Kind.CANCEL:
                self._waiting.pop(number, None)
        self._transport.write(data)

    def renumbered(self, nbytes: int) -> Iterator[bytes]:
        self._received += self.room[:nbytes]
        while (frame := self._next("_received")) is not None:
            kind, number, *rest = msgpack.unpackb(
                frame, raw=False, strict_map_key=False, unicode_errors="surrogateescape"
            )
            if kind in (Kind.RESPONSE, Kind.ERROR) and number and self._waiting:
                number = next(iter(self._waiting))
                del self._waiting[number]
                frame = msgpack.packb([kind, number, *rest], unicode_errors="surrogateescape")
            yield len(frame).to_bytes(4, "big") + frame

    def _next(self, name: str) -> bytes | None:
        data: bytes = getattr(self, name)
        size = int.from_bytes(data[:4], "big") + 4
        if len(data) < max(4, size):
            return None
        setattr(self, name, data[size:])
        return data[4:size]

    def __getattr__(self, name: str) -> Any:
        return getattr(self._transport, name)


def resurrect_the_dead() -> AbstractContextManager[Any]:
    """M11: a member that was declared dead is alive again when it renews."""

    async def renew(self: Any, generation: int) -> Renewal | None:
        member = self._members.get(generation)
        if member is None:
            return None
        status = MemberStatus.ACTIVE if member.status == MemberStatus.DEAD else member.status
        counter = member.lease_counter + 1
        self._members[generation] = replace(member, status=status, lease_counter=counter)
        return Renewal(counter, self._cluster_id) if status <= MemberStatus.DRAINING else None

    return mock.patch.object(LocalMembershipStorage, "renew", renew)


def an_error_means_dead() -> AbstractContextManager[Any]:
    """M12: a node that cannot ask whether an object's owner lives takes it for dead."""

    async def is_gone(self: Any, generation: int) -> bool:
        try:
            status = (await self._cluster.refresh()).status_of(generation)
        except StorageError:
            return True
        return status is not None and status.terminal

    return mock.patch.object(Ownership, "_is_gone", is_gone)


def an_ordered_id() -> AbstractContextManager[Any]:
    """M13: another database server has taken over only if its random id is the larger one."""

    def compare(self: Any) -> None:
        history = self._storage.history
        if history > self._history:
            self._history = history
            self._raise_doubt("another database server has taken over")

    return mock.patch.object(ClusterProvider, "_compare_history", compare)


def no_look_at_the_claims() -> AbstractContextManager[Any]:
    """M14: a node relies on its claims without looking whether they are still there."""

    async def find_nothing(self: Any) -> str:
        return ""

    return mock.patch.object(LiveObjects, "find_loss", find_nothing)


def migrate_under_live_nodes() -> AbstractContextManager[Any]:
    """M15: a migration does not ask whether a node still runs."""
    return mock.patch.object(SchemaStatus, "check_quiet")


def a_fence_that_forgets_a_state() -> AbstractContextManager[Any]:
    """M17: a load fences an object that has one state; of several it only reads them."""
    load = LocalState.load_object

    async def load_or_read(self: Any, object_id: Any, token: int) -> StoredObject:
        before = self._objects.get(object_id)
        stored = await load(self, object_id, token)
        if before is not None and len(stored.states) > 1:
            self._objects[object_id] = before
        return stored

    return mock.patch.object(LocalState, "load_object", load_or_read)


def a_settings_row_that_is_not_compared() -> AbstractContextManager[Any]:
    """M18: a node joins with settings that nobody has compared with those of the others."""

    compare = Admission.wait

    async def wait(self: Any) -> SettingsRow:
        row = decode_row((await self._read()).settings)
        return row or await compare(self)

    return mock.patch.object(Admission, "wait", wait)


def a_newer_schema_that_is_not_refused() -> AbstractContextManager[Any]:
    """M19: a node reads a state of a newer schema as if it were one of its own."""

    def to_current(self: Any, data: bytes, schema: int) -> bytes:
        return data

    return mock.patch.object(StateCodec, "_to_current", to_current)


def a_voter_that_hears_nobody() -> AbstractContextManager[Any]:
    """M20: a node votes although nobody has answered it since it suspects the member."""
    return mock.patch.object(Suspicions, "is_cut_off", return_value=False)


def old_claims_while_new_exists() -> AbstractContextManager[Any]:
    """M21: a node claims an object wherever it is asked for, whatever the others can do."""
    return mock.patch.object(Versions, "choose_home", return_value=None)


def unknown_fields_dropped() -> AbstractContextManager[Any]:
    """M22: a save writes the fields that the class knows, and no others."""
    return mock.patch.object(states, "_keep")
