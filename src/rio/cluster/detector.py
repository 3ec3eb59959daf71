"""The arithmetic of failure detection: pure functions, and how far a node trusts its own senses.

The formulas are memberlist's (``suspicion.go``, ``util.go``, ``awareness.go``); the rules of votes
are in ``docs/cluster.md``.
"""

from __future__ import annotations

import math

from rio.contracts.membership import MAX_VOTES, Member, MembershipSnapshot, Vote

CONFIRMATIONS = 2
"""Others who suspect the same member, after which a suspicion takes its shortest time."""

MAX_HEALTH = 8
"""The worst that a node may think of itself; 0 is the best."""

SICK = 3
"""From this health on a node neither votes nor asks others on a third one's behalf: what it cannot
reach may be its own fault.
"""

SLOW_LOOP, STALLED_LOOP = 0.25, 1.0
"""Seconds that the event loop is late, from which on a node trusts itself 1 and 2 less."""


def shortest_suspicion(multiplier: float, members: int, interval: float) -> float:
    """Seconds: ``multiplier * max(1, log10(members)) * interval``, the logarithm's product cut to
    thousandths as memberlist does.
    """
    scale = max(1.0, math.log10(max(1, members)))
    return multiplier * math.floor(scale * 1000) * interval / 1000


def wanted_confirmations(members: int) -> int:
    """2; none where the cluster has not that many beside the suspect and the one who suspects it."""
    return CONFIRMATIONS if members - 2 >= CONFIRMATIONS else 0


def remaining_suspicion(
    confirmations: int, wanted: int, elapsed: float, shortest: float, longest: float
) -> float:
    """Seconds until a suspicion has stood long enough; not above 0 where it has.

    ``longest - log(confirmations + 1) / log(wanted + 1) * (longest - shortest)``, cut to
    milliseconds, at least ``shortest``, less what has elapsed. With ``wanted`` 0 it is the
    shortest.
    """
    if wanted < 1:
        return shortest - elapsed
    fraction = math.log(confirmations + 1) / math.log(wanted + 1)
    timeout = math.floor(1000 * (longest - fraction * (longest - shortest))) / 1000
    return max(shortest, timeout) - elapsed


def retransmit_limit(multiplier: int, members: int) -> int:
    """How often one node sends one piece of news: ``multiplier * ceil(log10(members + 1))``."""
    return multiplier * math.ceil(math.log10(members + 1))


def quorum(others: int) -> int:
    """Votes that condemn a member, of ``others`` active members beside it: ``max(2, others // 2 +
    1)``, 1 where there is only one other.

    At most 8, as no more votes are stored; that a minority of 8 cannot condemn a majority is the
    task of :func:`reaches_majority`.
    """
    return 1 if others == 1 else min(MAX_VOTES, max(2, others // 2 + 1))


def reaches_majority(active: frozenset[int], unreachable: frozenset[int], waited: bool) -> bool:
    """Whether a node that cannot reach these members is on the side that may vote: that of more
    than half of all active ones.

    Of two equal halves it is the one with the oldest member; the other one only after it has
    ``waited`` in vain, as the oldest may be the broken one.
    """
    reached = active - unreachable
    if 2 * len(reached) != len(active):
        return 2 * len(reached) > len(active)
    return waited or min(active) in reached


class Awareness:
    """How far a node trusts its own senses: Lifeguard's local health, from 0 (entirely) to 8.

    Time-outs are stretched by ``1 + health``.
    """

    def __init__(self) -> None:
        self.health = 0

    def adjust(self, change: int) -> None:
        self.health = min(MAX_HEALTH, max(0, self.health + change))

    def loop_was_late(self, seconds: float) -> None:
        """The event loop did something so many seconds later than it was to."""
        if seconds > SLOW_LOOP:
            self.adjust(2 if seconds > STALLED_LOOP else 1)

    @property
    def sick(self) -> bool:
        return self.health >= SICK

    def stretched(self, timeout: float) -> float:
        return timeout * (1 + self.health)


class LiveMembers:
    """Which of the members that the storage calls active are so indeed: not those whose lease
    counter this node saw stand still.

    ``patience``: for how long, in seconds. Where reads were further apart it has not looked, and
    begins anew.
    """

    def __init__(self, patience: float) -> None:
        self._patience = patience
        self._looked = -math.inf
        self._seen: dict[int, tuple[int, float]] = {}

    def read(self, snapshot: MembershipSnapshot, now: float) -> None:
        before = self._seen if now - self._looked <= self._patience else {}
        self._looked, self._seen = now, {}
        for member in snapshot.active:
            known = before.get(member.generation)
            unchanged = known is not None and known[0] == member.lease_counter
            self._seen[member.generation] = (
                known if known and unchanged else (member.lease_counter, now)
            )

    def of(self, active: frozenset[int]) -> frozenset[int]:
        """As of the last read, so that one who cannot read does not take that for the others'
        silence.
        """
        silent = {
            generation
            for generation, (_, since) in self._seen.items()
            if self._looked - since >= self._patience
        }
        return active - silent


class FreshVotes:
    """Which votes in the storage are young enough to count, by this node's own clock: it times
    since when it has seen each unchanged.

    What stood there before it began to look, or after it had not looked for a while, is old until
    it changes; voters renew their votes.
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

    def written(self, member: Member, now: float) -> None:
        """Take in the votes on one member, as they stand after this node has cast its own."""
        for vote in member.votes:
            self._note(member, vote, self._seen, now)

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
