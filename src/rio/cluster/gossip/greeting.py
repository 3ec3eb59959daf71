"""Whether a member that is about to join and the others can reach each other."""

from __future__ import annotations

from collections.abc import Iterable

from rio.cluster.gossip.actions import GossipActions
from rio.cluster.gossip.membership_view import MembershipView
from rio.cluster.gossip.messages import Ack, Ping


class Greeting:
    """Pings the active members before this node joins, and notes which of them answer.

    An answer proves both ways: each node writes to the connections that it made itself.

    ``number``: of all these pings.
    """

    def __init__(self, number: int, view: MembershipView, actions: GossipActions) -> None:
        self._number = number
        self._view = view
        self._actions = actions
        self._answered: set[int] = set()

    def send(self) -> None:
        """Ping every active member that has not answered yet."""
        for member in sorted(self._view.active - self._answered - {self._view.generation}):
            self._actions.send(member, Ping, self._number)

    def take_answer(self, message: Ack) -> None:
        """Note the sender of an answer, if it is one to a greeting."""
        if message.number == self._number:
            self._answered.add(message.source)

    def reached_majority_of(self, members: frozenset[int]) -> bool:
        """Whether more than half of these have answered; true where there are none."""
        return not members or 2 * len(self._answered & members) > len(members)

    def silent(self, members: frozenset[int]) -> frozenset[int]:
        """Those of these members that have not answered yet."""
        return members - self._answered

    def forget(self, gone: Iterable[int]) -> None:
        """Forget members that have ended."""
        self._answered.difference_update(gone)
