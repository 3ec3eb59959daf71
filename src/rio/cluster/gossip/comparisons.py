"""How two members make sure that they know the same, whatever messages were lost."""

from __future__ import annotations

import random

from rio._core.gossip import MemberTable
from rio.cluster.config import GossipConfig
from rio.cluster.gossip.actions import GossipActions
from rio.cluster.gossip.member_ring import MemberRing
from rio.cluster.gossip.membership_view import MembershipView
from rio.cluster.gossip.messages import (
    ALL_BUCKETS,
    RECORDS_PER_MESSAGE,
    Difference,
    Digest,
    Update,
)
from rio.cluster.gossip.token_bucket import TokenBucket

ANSWERS = 3
"""Comparisons that are answered at once; and as many in each ``sync_interval`` on average."""


class Comparisons:
    """Compares the whole member table with one other member, chosen at random, every
    ``sync_interval``, and answers the others that do so.

    The digests of the table's buckets are compared first; the records of buckets that differ are
    sent both ways.
    """

    def __init__(
        self,
        table: MemberTable,
        view: MembershipView,
        ring: MemberRing,
        actions: GossipActions,
        config: GossipConfig,
        rng: random.Random,
        first_at: float,
    ) -> None:
        self._table = table
        self._view = view
        self._ring = ring
        self._actions = actions
        self._interval = config.sync_interval
        self._rng = rng
        self._partner = 0
        """The member that this node waits for, 0 for none."""
        self._answers = TokenBucket(config.sync_interval / ANSWERS, ANSWERS)
        self.due = first_at
        """When the next comparison begins."""

    def pass_time(self, now: float) -> None:
        """Begin a comparison if one is due."""
        if now < self.due:
            return
        self.due = now + self._interval * self._rng.uniform(0.8, 1.2)
        if self._ring:
            self._partner = self._ring.choose()
            self._actions.send(self._partner, Digest, tuple(self._table.digests()))

    def answer(self, message: Digest, now: float) -> None:
        """Tell a member in which buckets it knows other things, and what this node knows there."""
        view, own = self._view, self._table.digests()
        mask = sum(
            1 << bucket for bucket in range(len(own)) if own[bucket] != message.digests[bucket]
        )
        # A snapshot that this node has only heard of is not passed on as its own.
        is_newer = view.version > message.version and self._table.version == view.version
        if (mask or is_newer) and self._answers.take(now):
            state = self._table.encode((), snapshot=True) if is_newer else b""
            self._actions.send(message.source, Difference, mask, state=state)
            self._send_buckets(message.source, mask)

    def send_wanted(self, message: Difference) -> None:
        """Send what the partner does not know, if this is the partner and has not asked before."""
        if message.source == self._partner:
            self._partner = 0
            self._send_buckets(message.source, message.wanted & ALL_BUCKETS)

    def _send_buckets(self, receiver: int, mask: int) -> None:
        generations = self._table.in_buckets(mask)
        for start in range(0, len(generations), RECORDS_PER_MESSAGE):
            records = generations[start : start + RECORDS_PER_MESSAGE]
            self._actions.send(receiver, Update, state=self._table.encode(records, snapshot=False))
