"""What a member tells the others, how often, and to whom.

Records that changed are news. They travel with probes and their answers, and in a round of their
own every ``gossip_interval``.
"""

from __future__ import annotations

import math
from collections.abc import Iterable

from rio._core.gossip import MemberTable, Record
from rio.cluster.config import GossipConfig
from rio.cluster.gossip.actions import GossipActions
from rio.cluster.gossip.member_ring import MemberRing
from rio.cluster.gossip.membership_view import MembershipView
from rio.cluster.gossip.messages import RECORDS_PER_MESSAGE, Update
from rio.errors import ProtocolError

PIGGYBACK = 6
"""Records that travel with a probe or with its answer, at most."""


def retransmit_limit(multiplier: int, members: int) -> int:
    """How often one node sends one piece of news: ``multiplier * ceil(log10(members + 1))``, as in
    memberlist's ``util.go``.
    """
    return multiplier * math.ceil(math.log10(members + 1))


class News:
    """The records of ``table`` that this node still has to tell, and how often it has told each.

    Each piece is sent :func:`retransmit_limit` times, the piece that was sent least often first.
    """

    def __init__(self, table: MemberTable, view: MembershipView, multiplier: int) -> None:
        self._table = table
        self._view = view
        self._multiplier = multiplier
        self._times_sent: dict[int, int] = {}
        self._version_sends_left = 0

    def __bool__(self) -> bool:
        return bool(self._times_sent) or self._version_sends_left > 0

    def add(self, generation: int) -> None:
        """The record of this member has changed."""
        self._times_sent[generation] = 0

    def add_version(self) -> None:
        """This node has read a newer snapshot. Every message tells its version."""
        self._version_sends_left = self._limit()

    def publish(self, record: Record) -> None:
        """Put a record into the table, and tell the others if that changes the table. A full table
        takes no record.
        """
        try:
            changed = self._table.put(*record)
        except ProtocolError:
            changed = False
        if changed:
            self.add(record.generation)

    def take(self, most: int) -> list[int]:
        """Count one more sending of up to ``most`` records, and return whose records they are."""
        chosen = sorted(self._times_sent, key=self._times_sent.__getitem__)[:most]
        limit = self._limit()
        for generation in chosen:
            self._times_sent[generation] += 1
            if self._times_sent[generation] >= limit:
                del self._times_sent[generation]
        return chosen

    def take_version(self) -> bool:
        """Count one more sending of the version, and return whether it is still news."""
        if self._version_sends_left == 0:
            return False
        self._version_sends_left -= 1
        return True

    def piggyback(self, receiver: int) -> bytes:
        """Return some news for a message to ``receiver``, as a state of the table.

        If the receiver is suspected, the message says so, whatever else is new: the receiver can
        refute only what it hears.
        """
        generations = self.take(PIGGYBACK)
        record = self._table.record(receiver)
        if record is not None and record.suspects:
            generations.append(receiver)
        return self.encode(generations)

    def encode(self, generations: list[int]) -> bytes:
        """Return the records of these members as a state of the table, without a snapshot."""
        return self._table.encode(generations, snapshot=False) if generations else b""

    def forget(self, gone: Iterable[int]) -> None:
        """Tell nothing more about members that have ended."""
        for generation in gone:
            self._times_sent.pop(generation, None)

    def clear(self) -> None:
        """Tell nothing of what is news now."""
        self._times_sent.clear()
        self._version_sends_left = 0

    def _limit(self) -> int:
        return retransmit_limit(self._multiplier, self._view.size)


class NewsRound:
    """Tells ``fan_out`` others, chosen at random, what is new: every ``gossip_interval``."""

    def __init__(
        self,
        news: News,
        ring: MemberRing,
        actions: GossipActions,
        config: GossipConfig,
        now: float,
    ) -> None:
        self._news = news
        self._ring = ring
        self._actions = actions
        self._config = config
        self._next_at = now

    @property
    def due(self) -> float:
        """When there is something to do, or infinity where there is no news."""
        return self._next_at if self._news else math.inf

    def pass_time(self, now: float) -> None:
        """Tell the others if a round is due and there is news."""
        if now >= self.due:
            self.tell(now)

    def tell(self, now: float) -> None:
        """Tell the others what is new, before a round is due if need be."""
        self._next_at = now + self._config.gossip_interval
        if not self._ring:
            self._news.clear()
        for member in self._ring.sample(self._config.fan_out):
            self._tell(member)

    def _tell(self, member: int) -> None:
        generations = self._news.take(RECORDS_PER_MESSAGE)
        has_version = self._news.take_version()
        if generations or has_version:
            self._actions.send(member, Update, state=self._news.encode(generations))
