"""Who is in the cluster: the member record, and the contract of the storage that is the authority
over it.

Storage is the meeting point and the only authority for the terminal statuses; nothing else can make
a member dead. A member is identified by its generation, a number that the storage issues once and
never again: a restarted server is a new member.
"""

from __future__ import annotations

import asyncio
from abc import abstractmethod
from collections.abc import Sequence
from enum import IntEnum
from typing import NamedTuple

import msgspec

from rio.contracts.role import Role

MAX_VOTES = 8
MAX_METADATA_BYTES = 128


class MemberStatus(IntEnum):
    """The life of a member. It only moves forward."""

    JOINING = 0
    ACTIVE = 1
    DRAINING = 2
    CONDEMNED = 3
    LEFT = 4
    DEAD = 5

    @property
    def terminal(self) -> bool:
        """Whether the member is gone for good, so that its objects may be claimed by others."""
        return self >= MemberStatus.LEFT


class Vote(msgspec.Struct, frozen=True):
    """One member's verdict that another cannot be reached."""

    voter: int
    """Generation of the voter."""
    at: float
    """When, in the voter's own words; only ever compared for change, never with another clock."""


class Member(msgspec.Struct, frozen=True):
    generation: int
    """Issued by the storage, never reused: the member's identity."""
    address: str
    """``host:port`` where it listens."""
    status: MemberStatus
    lease_counter: int = 0
    """Raised by each renewal. An observer times how long it stays unchanged, by its own clock."""
    metadata: bytes = b""
    """At most 128 bytes that the member tells about itself."""
    votes: tuple[Vote, ...] = ()
    """At most 8, one for each voter, in the order in which they arrived."""


class MembershipSnapshot(msgspec.Struct, frozen=True):
    """All members at one instant, from one statement."""

    version: int
    """Raised by each change of who is there and in which status: a registration, a status, a purge.

    Not by renewals and votes.
    """
    generation_high: int
    """The highest generation issued so far.

    A member that is absent and not above it was purged, and is dead.
    """
    members: tuple[Member, ...] = ()

    def find(self, generation: int) -> Member | None:
        return next((member for member in self.members if member.generation == generation), None)

    def status_of(self, generation: int) -> MemberStatus | None:
        """The status, ``DEAD`` for one that was purged, ``None`` for one that is newer than this
        snapshot.
        """
        member = self.find(generation)
        if member is not None:
            return member.status
        return MemberStatus.DEAD if generation <= self.generation_high else None

    @property
    def active(self) -> tuple[Member, ...]:
        return tuple(member for member in self.members if member.status == MemberStatus.ACTIVE)


class Registered(NamedTuple):
    """What a new member is told."""

    generation: int
    snapshot: MembershipSnapshot


class StatusChange(NamedTuple):
    """The fate of a compare-and-set."""

    applied: bool
    member: Member | None
    """The member as it stands now; ``None`` if it was purged or never existed."""


class MembershipStorage(Role):
    """The contract.

    Every method may raise :class:`rio.errors.StorageUnavailable`, which is never evidence about a
    member.
    """

    @abstractmethod
    async def register(self, address: str, metadata: bytes = b"") -> Registered:
        """Add a member as ``JOINING`` under a new generation, after its listener is bound.

        Older members of the same address become ``DEAD``: that this one could bind the address
        proves that they closed it.

        :raises ValueError: the metadata is longer than 128 bytes.
        """

    @abstractmethod
    async def renew(self, generation: int) -> bool:
        """Raise the lease counter.

        ``False`` if the member is not ``JOINING``, ``ACTIVE`` or ``DRAINING`` (any more): it must
        stop.
        """

    @abstractmethod
    async def snapshot(self) -> MembershipSnapshot:
        """Everything, from one statement, never torn."""

    @abstractmethod
    async def set_status(
        self,
        generation: int,
        expected: MemberStatus,
        status: MemberStatus,
        *,
        expected_counter: int | None = None,
    ) -> StatusChange:
        """Move a member forward if its status, and its lease counter where given, are still as
        expected; raises the snapshot's version.

        :raises ValueError: ``status`` does not come after ``expected``.
        """

    @abstractmethod
    async def vote(self, target: int, vote: Vote) -> StatusChange:
        """Add or replace one active voter's vote on a member that is not terminal. The snapshot's
        version stays.

        The vote becomes the newest. Where there would be more than 8 the oldest goes: the one that
        arrived first, whatever its ``at`` says.
        """

    @abstractmethod
    async def purge(self, generation: int) -> bool:
        """Forget a terminal member, which raises the snapshot's version.

        ``False`` if it is not terminal, or not there.
        """

    async def wait_for_change(self, version: int, timeout: float) -> None:
        """Return when the snapshot's version may be above ``version``, and after ``timeout``
        seconds at the latest.

        It is a hint of when to read and no more: it may return early, and a back end that hears of
        nothing simply sleeps, which is what this default does. A node waits in this way between two
        reads, so that it polls where nothing is heard.
        """
        await asyncio.sleep(timeout)


def check_metadata(metadata: bytes) -> None:
    """:raises ValueError: the metadata is longer than 128 bytes."""
    if len(metadata) > MAX_METADATA_BYTES:
        raise ValueError(
            f"a member's metadata is {len(metadata)} bytes long, the limit is {MAX_METADATA_BYTES}"
        )


def check_forward(expected: MemberStatus, status: MemberStatus) -> None:
    """:raises ValueError: ``status`` does not come after ``expected``."""
    if status <= expected:
        raise ValueError(
            f"a member's status only moves forward: {status.name} does not come after {expected.name}"
        )


def with_vote(votes: Sequence[Vote], vote: Vote) -> tuple[Vote, ...]:
    """The votes in order of arrival, with ``vote`` as the newest, one for each voter and at most 8."""
    others = [other for other in votes if other.voter != vote.voter]
    return tuple([*others, vote][-MAX_VOTES:])
