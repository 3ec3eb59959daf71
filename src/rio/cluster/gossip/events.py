"""What happens to a member's gossip: what :meth:`Gossip.step` takes in."""

from __future__ import annotations

from typing import TypeAlias

import msgspec

from rio.contracts.membership import Member, MembershipSnapshot


class Tick(msgspec.Struct, frozen=True):
    """Time has passed."""


class MessageReceived(msgspec.Struct, frozen=True):
    """A message arrived over the link of a member."""

    source: int
    """The member's generation, as the member introduced itself when it connected."""
    payload: bytes


class SnapshotRead(msgspec.Struct, frozen=True):
    """The membership has been read from the storage."""

    snapshot: MembershipSnapshot
    sent: float
    """When the read was asked for."""


class VoteWritten(msgspec.Struct, frozen=True):
    """The storage has taken this node's vote."""

    member: Member
    """The target of the vote, with all votes on it."""


class LoopLate(msgspec.Struct, frozen=True):
    """The event loop ran something later than planned."""

    seconds: float


class GreetingDue(msgspec.Struct, frozen=True):
    """This node is about to join: it pings every active member that has not answered yet."""


class NewsDue(msgspec.Struct, frozen=True):
    """This node is about to end: it tells what is new now, and not with its next round."""


GossipEvent: TypeAlias = (
    Tick | MessageReceived | SnapshotRead | VoteWritten | LoopLate | GreetingDue | NewsDue
)
