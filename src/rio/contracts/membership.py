"""Who is in the cluster: the record of a member, and the contract of the storage that holds them.

This storage is where servers meet, and the only authority for the statuses that end a member:
nothing else can make a member dead. A member is identified by its generation, a number that the
storage issues once and never again. A server that restarts is a new member.
"""

from __future__ import annotations

import asyncio
import hashlib
import secrets
from abc import abstractmethod
from collections.abc import Mapping, Sequence
from enum import IntEnum
from typing import NamedTuple, Self

import msgspec

from rio._core.wire import MAX_METADATA
from rio.contracts.role import Role

MAX_VOTES = 8
"""Votes that a member can hold at a time."""
MAX_METADATA_BYTES = MAX_METADATA
"""Bytes of metadata that a member can have."""
MAX_MANIFEST_BYTES = 1 << 14
"""Bytes of a member's manifest."""


class MemberStatus(IntEnum):
    """The life of a member. A status only moves forward.

    A newer version of ``rio`` may know more statuses. Here such a status has no name of its own,
    and is neither active nor terminal. Their numbers stay below that of ``LEFT``, because a member
    that has ended has ended for every version.
    """

    JOINING = 0
    """It is registered, and the other members have not accepted it yet."""
    ACTIVE = 1
    """It owns objects and claims new ones."""
    DRAINING = 2
    """It gives its objects up and claims nothing new."""
    CONDEMNED = 3
    """The cluster, by a majority of votes, or an operator wants it to end: it stops as soon as it
    reads this.
    """
    LEFT = 4
    """It ended on its own."""
    DEAD = 5
    """The cluster declared it dead."""

    @property
    def terminal(self) -> bool:
        """Whether the member is gone for good, so that others may claim its objects."""
        return self in (MemberStatus.LEFT, MemberStatus.DEAD)

    @classmethod
    def _missing_(cls, value: object) -> Self | None:
        """A status that this version does not know keeps its number, so that it can be compared
        and set.
        """
        if not isinstance(value, int):
            return None
        status = int.__new__(cls, value)
        status._name_, status._value_ = f"STATUS_{value}", value
        return status


class Vote(msgspec.Struct, frozen=True):
    """The verdict of one member that it cannot reach another."""

    voter: int
    """The generation of the voter."""
    at: float
    """Seconds on the voter's own clock. Readers look only whether it changes; they never compare it
    with another clock.
    """


class Member(msgspec.Struct, frozen=True):
    """One server of the cluster, as the storage holds it."""

    generation: int
    """The identity of the member. The storage issues each number once."""
    address: str
    """``host:port`` where it listens."""
    status: MemberStatus
    """Where it is in its life."""
    lease_counter: int = 0
    """Raised by each renewal. An observer times, by its own clock, how long it stays unchanged."""
    metadata: bytes = b""
    """What the member tells about itself: at most ``MAX_METADATA_BYTES``."""
    votes: tuple[Vote, ...] = ()
    """The votes against it in the order of their arrival: at most ``MAX_VOTES``, one for each
    voter.
    """
    manifest_digest: bytes = b""
    """:func:`digest_manifest` of its manifest, so that a manifest is read only when it is new."""


class MembershipSnapshot(msgspec.Struct, frozen=True):
    """All members at one instant."""

    version: int
    """Raised by each change of which members there are and of their statuses: by a registration, a
    new status and a purge, but not by renewals and votes.
    """
    generation_high: int
    """The highest generation that was issued so far.

    A member that is absent although its generation is not higher was purged, and is dead.
    """
    members: tuple[Member, ...] = ()
    """The members that were not purged, of every status."""
    cluster_id: str = ""
    """Which cluster this is: 128 random bits as text, made with the storage of its members. Ids are
    compared for equality only. Empty if nothing was read yet.
    """
    settings: bytes = b""
    """The settings that all members must share, as :meth:`MembershipStorage.set_settings` got them.
    The storage does not look into them.
    """

    def find(self, generation: int) -> Member | None:
        """The member of a generation, or ``None`` if it is not in this snapshot."""
        return next((member for member in self.members if member.generation == generation), None)

    def status_of(self, generation: int) -> MemberStatus | None:
        """The status of a member: ``DEAD`` if it was purged, ``None`` if it is newer than this
        snapshot.
        """
        member = self.find(generation)
        if member is not None:
            return member.status
        return MemberStatus.DEAD if generation <= self.generation_high else None

    @property
    def active(self) -> tuple[Member, ...]:
        """The members whose status is ``ACTIVE``."""
        return tuple(member for member in self.members if member.status == MemberStatus.ACTIVE)


class Registered(NamedTuple):
    """What the storage answers to a new member."""

    generation: int
    """The generation of the new member."""
    snapshot: MembershipSnapshot
    """All members, the new one among them."""


class Renewal(NamedTuple):
    """What the storage answers to a member that has renewed its lease.

    With it the member finds out whether the storage is still the one that it wrote to.
    """

    lease_counter: int
    """The member's lease counter after this renewal. If it is not above the counter of an earlier
    renewal, the storage has gone back in time.
    """
    cluster_id: str
    """The cluster to which the storage belongs now."""


class StatusChange(msgspec.Struct, frozen=True):
    """How a compare-and-set ended."""

    applied: bool
    """Whether it changed the member."""
    member: Member | None
    """The member as it is now; ``None`` if it was purged or never existed."""


class MembershipStorage(Role):
    """The contract of the storage that holds the members.

    Each new generation and each new version of the snapshot is ``max(the last one + 1, now)``,
    where ``now`` is the storage's clock in microseconds: so a number that is given out after a
    restore is larger than the lost ones.

    Every method may raise :class:`rio.errors.StorageUnavailable`, or
    :class:`rio.errors.RowCorrupt` where something stored is damaged. That says nothing about any
    member, and after a write it is not known whether the write happened.
    """

    @abstractmethod
    async def register(
        self, address: str, metadata: bytes = b"", manifest: bytes = b""
    ) -> Registered:
        """Add a member as ``JOINING`` under a new generation. Its server has bound ``address``.

        In the same step, older members of that address become ``DEAD``: they must have closed the
        address, or this server could not have bound it.

        :raises ValueError: the metadata is longer than ``MAX_METADATA_BYTES``, or the manifest
            than ``MAX_MANIFEST_BYTES``.
        """

    @abstractmethod
    async def renew(self, generation: int) -> Renewal | None:
        """Raise the lease counter of a member.

        Returns ``None``, and changes nothing, if the status of the member is not ``JOINING``,
        ``ACTIVE`` or ``DRAINING``, or if it is not there. Its server must then stop.
        """

    @abstractmethod
    async def snapshot(self) -> MembershipSnapshot:
        """Read all members in one step, so that the snapshot is never torn."""

    @abstractmethod
    async def set_status(
        self,
        generation: int,
        expected: MemberStatus,
        status: MemberStatus,
        *,
        expected_counter: int | None = None,
    ) -> StatusChange:
        """Move a member from the status ``expected`` to ``status``, in one atomic step.

        Nothing changes if the member has another status now, or, where ``expected_counter`` is
        given, another lease counter. A change raises the version of the snapshot.

        :raises ValueError: ``status`` does not come after ``expected``.
        """

    @abstractmethod
    async def vote(self, generation: int, vote: Vote) -> StatusChange:
        """Add a vote against the member ``generation``, or replace the voter's older vote.

        The voter must be ``ACTIVE``, and the member must not have ended; otherwise nothing changes.
        The vote becomes the newest. If there would be more than ``MAX_VOTES``, the vote that
        arrived first goes, whatever its ``at`` says. The version of the snapshot stays.
        """

    @abstractmethod
    async def set_manifest(self, generation: int, manifest: bytes) -> bool:
        """Replace what a member tells about itself, and raise the version of the snapshot.

        Returns ``False``, and changes nothing, if the member has ended or is not there.

        :raises ValueError: the manifest is longer than ``MAX_MANIFEST_BYTES``.
        """

    @abstractmethod
    async def read_manifests(self, generations: Sequence[int]) -> Mapping[int, bytes]:
        """The manifests of some members, by their generations. A member that is not there is left
        out.
        """

    @abstractmethod
    async def set_settings(self, settings: bytes, version: int) -> bool:
        """Replace the settings that all members share, and raise the version of the snapshot, in
        one atomic step.

        Returns ``False``, and changes nothing, if the version of the snapshot is not ``version``:
        a member has joined, ended or acknowledged something since it was read.
        """

    @abstractmethod
    async def change_cluster_id(self, cluster_id: str) -> MembershipSnapshot:
        """Make this storage that of a new cluster: set its id, and end all members.

        It is for a copy of a database, whose members serve the cluster that it was copied from.
        """

    @abstractmethod
    async def purge(self, generation: int) -> bool:
        """Forget a member that has ended, and raise the version of the snapshot.

        Returns ``False``, and changes nothing, if its status is not terminal or it is not there.
        """

    async def wait_for_change(self, version: int, timeout: float) -> None:
        """Return as soon as the version of the snapshot may be above ``version``, and after
        ``timeout`` seconds at the latest.

        This only hints when to read: it may return early, but not each time. It raises nothing. A
        back end that cannot hear of changes sleeps, as this default does; a server then polls,
        because it waits in this way between two reads.
        """
        await asyncio.sleep(timeout)


def make_cluster_id() -> str:
    """A new id for a cluster: 128 random bits, in hexadecimal digits."""
    return secrets.token_hex(16)


def check_metadata(metadata: bytes) -> None:
    """Refuse metadata that is too long for a member.

    :raises ValueError: it is longer than ``MAX_METADATA_BYTES``.
    """
    if len(metadata) > MAX_METADATA_BYTES:
        raise ValueError(
            f"a member's metadata is {len(metadata)} bytes long, the limit is {MAX_METADATA_BYTES}"
        )


def check_manifest(manifest: bytes) -> None:
    """Refuse a manifest that is too long for a member.

    :raises ValueError: it is longer than ``MAX_MANIFEST_BYTES``.
    """
    if len(manifest) > MAX_MANIFEST_BYTES:
        raise ValueError(
            f"a member's manifest is {len(manifest)} bytes long, the limit is {MAX_MANIFEST_BYTES}"
        )


def digest_manifest(manifest: bytes) -> bytes:
    """What a snapshot shows of a manifest: 8 bytes; none for a member without a manifest."""
    return hashlib.blake2b(manifest, digest_size=8).digest() if manifest else b""


def check_forward(expected: MemberStatus, status: MemberStatus) -> None:
    """Refuse a change of status that does not move forward.

    :raises ValueError: ``status`` does not come after ``expected``.
    """
    if status <= expected:
        raise ValueError(
            "a member's status only moves forward:"
            f" {status.name} does not come after {expected.name}"
        )


def add_vote(votes: Sequence[Vote], vote: Vote) -> tuple[Vote, ...]:
    """The votes in the order of their arrival after ``vote`` was added as the newest.

    There is one for each voter, and at most ``MAX_VOTES``: the oldest goes first.
    """
    others = [other for other in votes if other.voter != vote.voter]
    return tuple([*others, vote][-MAX_VOTES:])


_encode_votes = msgspec.msgpack.Encoder().encode
_decode_votes = msgspec.msgpack.Decoder(tuple[Vote, ...]).decode


def encode_votes(votes: Sequence[Vote]) -> bytes:
    """Votes as bytes, in MessagePack, for back ends that store them in one column.

    Equal votes have equal bytes, so that a back end can compare and set them.
    """
    return _encode_votes(votes)


def decode_votes(data: bytes) -> tuple[Vote, ...]:
    """Read what :func:`encode_votes` wrote.

    :raises msgspec.DecodeError: the bytes are no votes.
    """
    try:
        return _decode_votes(data)
    except (UnicodeDecodeError, RecursionError) as error:
        raise msgspec.DecodeError(str(error)) from error
