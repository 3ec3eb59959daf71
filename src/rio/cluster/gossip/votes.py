"""Votes that a member cannot be reached: how many condemn it, and which of them count."""

from __future__ import annotations

import math

from rio.contracts.membership import MAX_VOTES, Member, MembershipSnapshot, Vote


def quorum(others: int) -> int:
    """Votes that condemn a member, out of ``others`` active members beside it: ``max(2, others // 2
    + 1)``, or 1 where there is only one other.

    At most 8, as the storage keeps no more. That a minority of 8 does not condemn a majority
    is the task of :func:`reaches_majority`.
    """
    return 1 if others == 1 else min(MAX_VOTES, max(2, others // 2 + 1))


def reaches_majority(active: frozenset[int], unreachable: frozenset[int], waited: bool) -> bool:
    """Whether a node that cannot reach ``unreachable`` is on the side that may vote: that of more
    than half of the ``active`` members.

    Of two equal halves the side with the oldest member may vote. The other side may vote only after
    it has ``waited`` in vain, as the oldest member may be the broken one.
    """
    reached = active - unreachable
    if 2 * len(reached) != len(active):
        return 2 * len(reached) > len(active)
    return waited or min(active) in reached


class FreshVotes:
    """Which votes in the storage are young enough to count, by this node's own clock: it times for
    how long it has seen each vote unchanged.

    A vote that this node did not see appear is old until it changes: one from before its first
    read, or from after a while without reads. Voters renew their votes.

    ``lifetime``: seconds that a vote counts. ``gap``: seconds between two reads above which the
    node has not looked.
    """

    def __init__(self, lifetime: float, gap: float) -> None:
        self._lifetime = lifetime
        self._gap = gap
        self._looked = -math.inf
        self._seen: dict[tuple[int, int], tuple[float, float]] = {}

    def read(self, snapshot: MembershipSnapshot, now: float) -> None:
        """Take in what one read of the membership shows."""
        since = now if now - self._looked <= self._gap else -math.inf
        self._looked = now
        before, self._seen = self._seen, {}
        for member in snapshot.members:
            for vote in member.votes:
                self._note(member, vote, before, since)

    def note_written(self, member: Member, now: float) -> None:
        """Take in the votes on one member, as they stand after this node has cast its own."""
        for vote in member.votes:
            self._note(member, vote, self._seen, now)

    def count(self, target: int, voters: frozenset[int], now: float) -> int:
        """How many of ``voters`` have a fresh vote on ``target``."""
        return sum(
            1
            for (on, voter), (_, since) in self._seen.items()
            if on == target
            and voter in voters
            and voter != target
            and now - since <= self._lifetime
        )

    def _note(
        self,
        member: Member,
        vote: Vote,
        before: dict[tuple[int, int], tuple[float, float]],
        since: float,
    ) -> None:
        key = member.generation, vote.voter
        known = before.get(key)
        self._seen[key] = known if known is not None and known[0] == vote.at else (vote.at, since)
