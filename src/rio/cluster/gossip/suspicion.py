"""Whether a member is suspected, since when, and when that has stood long enough for a vote.

The formulas are those of memberlist's ``suspicion.go``.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator

from rio._core.gossip import MemberTable, Record
from rio.cluster.config import GossipConfig
from rio.cluster.gossip.awareness import Awareness
from rio.cluster.gossip.membership_view import MembershipView
from rio.cluster.gossip.news import News
from rio.cluster.gossip.votes import quorum
from rio.contracts.membership import Member, MemberStatus

CONFIRMATIONS = 2
"""Others that suspect the same member, after which a suspicion stands for the shortest time."""


def shortest_suspicion(multiplier: float, members: int, interval: float) -> float:
    """Seconds: ``multiplier * max(1, log10(members)) * interval``, the logarithm's product cut to
    thousandths as in memberlist.
    """
    scale = max(1.0, math.log10(max(1, members)))
    return multiplier * math.floor(scale * 1000) * interval / 1000


def wanted_confirmations(members: int) -> int:
    """2, or 0 in a cluster that has fewer than 2 members beside the suspect and the node that
    suspects it.
    """
    return CONFIRMATIONS if members - 2 >= CONFIRMATIONS else 0


def remaining_suspicion(
    confirmations: int, wanted: int, elapsed: float, shortest: float, longest: float
) -> float:
    """Seconds until a suspicion has stood long enough; 0 or less once it has.

    ``longest - log(confirmations + 1) / log(wanted + 1) * (longest - shortest)``, cut to
    milliseconds, at least ``shortest``, less what has elapsed. With ``wanted`` 0 it is
    ``shortest``, less what has elapsed.
    """
    if wanted < 1:
        return shortest - elapsed
    fraction = math.log(confirmations + 1) / math.log(wanted + 1)
    timeout = math.floor(1000 * (longest - fraction * (longest - shortest))) / 1000
    return max(shortest, timeout) - elapsed


class Suspicion:
    """This node's own evidence against one member: the member did not answer a probe, whatever
    others say.
    """

    def __init__(self, incarnation: int, now: float, lease_counter: int) -> None:
        self.incarnation = incarnation
        """A higher incarnation of the member refutes the suspicion."""
        self.since = now
        self.probed_at = now
        """When the member last did not answer."""
        self.voted_at = -math.inf
        """When this node last voted on it."""
        self.renewed_at = -math.inf
        """When this node saw the member renew its lease, since it suspects the member."""
        self._lease_counter = lease_counter

    def note_lease(self, counter: int, now: float) -> None:
        """Take in the member's lease counter, as read from the storage."""
        if counter != self._lease_counter:
            self._lease_counter, self.renewed_at = counter, now


class Suspicions:
    """The members that this node suspects: those that did not answer its own probes.

    What others say makes no suspicion. It shortens the time that one has to stand, and it makes
    this node look for itself.
    """

    def __init__(
        self,
        view: MembershipView,
        table: MemberTable,
        news: News,
        awareness: Awareness,
        config: GossipConfig,
    ) -> None:
        self.by_member: dict[int, Suspicion] = {}
        self._answered_at = -math.inf
        """When some member has last answered a probe of this node, or a request for one."""
        self._view = view
        self._table = table
        self._news = news
        self._awareness = awareness
        self._config = config

    def __contains__(self, generation: object) -> bool:
        return generation in self.by_member

    def __iter__(self) -> Iterator[int]:
        return iter(self.by_member)

    def __len__(self) -> int:
        return len(self.by_member)

    def suspect(self, member: Member, now: float) -> None:
        """This node's probe has failed: suspect the member, and tell the others of it. A sick node
        does not tell them.
        """
        generation = member.generation
        status = min(member.status, MemberStatus.DRAINING)
        record = self._table.record(generation) or Record(generation, 0, status, b"", ())
        suspicion = self.by_member.get(generation)
        if suspicion is None or suspicion.incarnation != record.incarnation:
            suspicion = self.by_member[generation] = Suspicion(
                record.incarnation, now, member.lease_counter
            )
        suspicion.probed_at = now
        if not self._awareness.sick:
            self._news.publish(record._replace(suspects=(self._view.generation,)))

    def note_answer(self, now: float) -> None:
        """Some member has answered: this node is not cut off from all."""
        self._answered_at = now

    def end(self, generation: int) -> None:
        """The member has answered."""
        self.by_member.pop(generation, None)

    def refute(self, generation: int, incarnation: int) -> None:
        """The member is known under this incarnation: a higher one than before refutes."""
        suspicion = self.by_member.get(generation)
        if suspicion is not None and incarnation > suspicion.incarnation:
            del self.by_member[generation]

    def forget(self, gone: Iterable[int]) -> None:
        """Suspect nothing of members that have ended."""
        for generation in gone:
            self.end(generation)

    def next_to_probe(self, now: float) -> int | None:
        """Return the suspect that was probed longest ago, if that is ``probe_interval`` ago or
        more: it may be back.
        """
        if not self.by_member:
            return None
        target = min(self.by_member, key=lambda suspect: self.by_member[suspect].probed_at)
        waited = now - self.by_member[target].probed_at
        return target if waited >= self._config.probe_interval else None

    def needs_witness(self, generation: int) -> bool:
        """Whether others suspect this member, but too few to condemn it, and this node does not."""
        record = self._table.record(generation)
        if record is None or generation not in self._view.members or generation in self:
            return False
        active = self._view.active
        accusers = len(active.intersection(record.suspects))
        return 0 < accusers < quorum(len(active - {generation}))

    def is_cut_off(self, generation: int) -> bool:
        """Whether nobody has answered this node since it suspects this member: it may be the node
        itself that nobody reaches. Of two members there is nobody else who could.
        """
        others = self._view.active - {self._view.generation, generation}
        return bool(others) and self._answered_at <= self.by_member[generation].since

    def remaining(self, generation: int, now: float) -> float:
        """Seconds until the suspicion of this member has stood long enough; 0 or less once it has.

        Active members that suspect it too make that shorter.
        """
        record = self._table.record(generation)
        others = self._view.active.intersection(record.suspects if record else ()) - {
            self._view.generation,
            generation,
        }
        wanted = wanted_confirmations(self._view.size)
        shortest = self.shortest()
        return remaining_suspicion(
            min(len(others), wanted),
            wanted,
            now - self.by_member[generation].since,
            shortest,
            self._config.suspicion_max_multiplier * shortest,
        )

    def shortest(self) -> float:
        """Seconds that a suspicion has to stand at the least."""
        return shortest_suspicion(
            self._config.suspicion_multiplier, self._view.size, self._config.probe_interval
        )
