"""The membership as one node last read it from the storage."""

from __future__ import annotations

from collections.abc import Set
from typing import NamedTuple

from rio.contracts.membership import Member, MembershipSnapshot


class MembersChanged(NamedTuple):
    """How two snapshots differ, by generations of members that have not ended."""

    gone: Set[int]
    new: Set[int]


class MembershipView:
    """What the member ``generation`` has itself read from the storage about the others."""

    def __init__(self, generation: int) -> None:
        self.generation = generation
        self.members: dict[int, Member] = {}
        """The others that have not ended, by generation."""
        self.active: frozenset[int] = frozenset()
        """The generations of the active members; this member may be one of them."""
        self.version = 0
        """The version of the newest snapshot that was read."""
        self.generation_high = 0
        """The highest generation that the newest snapshot knows."""

    @property
    def size(self) -> int:
        """How many members there are, with this one."""
        return len(self.members) + 1

    def adopt(self, snapshot: MembershipSnapshot) -> MembersChanged:
        """Follow a newer snapshot, and return what it has changed."""
        self.version, self.generation_high = snapshot.version, snapshot.generation_high
        before = self.members
        self.members = {
            member.generation: member
            for member in snapshot.members
            if not member.status.terminal and member.generation != self.generation
        }
        self.active = frozenset(member.generation for member in snapshot.active)
        return MembersChanged(
            gone=before.keys() - self.members.keys(), new=self.members.keys() - before.keys()
        )
