"""What a member's gossip asks its provider to do: the output of
:meth:`rio.cluster.gossip.conversation.Gossip.step`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeAlias

import msgspec

from rio.cluster.gossip.awareness import Awareness
from rio.cluster.gossip.membership_view import MembershipView
from rio.cluster.gossip.messages import GossipMessage, encode
from rio.contracts.membership import Member


class Send(msgspec.Struct, frozen=True):
    """Give a message to the link of the member at ``address``. A message that cannot be sent at
    once is lost.
    """

    address: str
    payload: bytes


class ResetLink(msgspec.Struct, frozen=True):
    """Send the next message to ``address`` over a new connection: a probe has failed."""

    address: str


class Refresh(msgspec.Struct, frozen=True):
    """Read the membership now: a peer has seen a newer version."""


class CastVote(msgspec.Struct, frozen=True):
    """Vote in the storage that the member ``target`` cannot be reached."""

    target: int


class Condemn(msgspec.Struct, frozen=True):
    """Move this member to ``CONDEMNED``, if its status is still the same: a quorum has voted."""

    member: Member


class Fence(msgspec.Struct, frozen=True):
    """Admit nothing until a renewal that is sent after now succeeds: a peer says that the storage
    has given this node up.
    """


GossipAction: TypeAlias = Send | ResetLink | Refresh | CastVote | Condemn | Fence


class GossipActions:
    """The actions that one step has asked for so far, in order."""

    def __init__(self, view: MembershipView, awareness: Awareness) -> None:
        self._view = view
        self._awareness = awareness
        self._actions: list[GossipAction] = []

    def add(self, action: GossipAction) -> None:
        self._actions.append(action)

    def send(
        self,
        receiver: int,
        kind: Callable[..., GossipMessage],
        *fields: object,
        state: bytes = b"",
    ) -> None:
        """Add a message to a member, or nothing if that member has ended.

        ``fields``: what only this kind of message says.
        """
        member = self._view.members.get(receiver)
        if member is not None:
            view = self._view
            message = kind(
                receiver, view.generation, view.version, self._awareness.health, state, *fields
            )
            self.add(Send(member.address, encode(message)))

    def take(self) -> list[GossipAction]:
        """Return the actions, and begin anew."""
        actions, self._actions = self._actions, []
        return actions
