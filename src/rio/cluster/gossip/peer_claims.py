"""What peers say about the storage, and which peers are believed.

A peer that knows of a newer version makes this node read the storage. The storage alone is
believed: a peer whose claim it disproves is not listened to for a while.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import NamedTuple

from rio.cluster.gossip.token_bucket import TokenBucket

VAIN_READS = 3
"""Reads of the storage that find nothing new and that gossip may cause at once; on average it is
one in ``probe_interval``.
"""

DISTRUST = 60
"""For how many ``probe_interval`` a peer is distrusted whose claim the storage has disproved."""


class Claim(NamedTuple):
    """A peer says that the storage has this version of the membership."""

    version: int
    heard_at: float

    def is_answered_by(self, version: int, sent: float) -> bool:
        """Whether a read that was sent at that time, and showed ``version``, settles it."""
        return self.heard_at <= sent or self.version <= version

    def is_disproved_by(self, version: int, sent: float) -> bool:
        return self.heard_at <= sent and self.version > version


class PeerClaims:
    """Claims of peers about the version of the membership, and the reads that they cause.

    There is one such read at a time, so that all messages about one change share it. A read that
    shows a change costs nothing of what is allowed: a liar cannot make it happen, and a true
    claim must not wait because there were others before it.

    ``probe_interval``: in seconds; how long a read may take before another one is made.
    ``pause``: seconds after a read that showed a change, because more of them may come at once.
    """

    def __init__(self, probe_interval: float, pause: float) -> None:
        self._answer_timeout = probe_interval
        self._pause = pause
        self._distrust_time = DISTRUST * probe_interval
        self._claims: dict[int, list[Claim]] = {}
        """Of each peer the oldest and the newest that no read has answered."""
        self._distrusted_until: dict[int, float] = {}
        self._vain_reads = TokenBucket(probe_interval, VAIN_READS)
        self._wanted_at = -math.inf
        """When a read was wished for otherwise than by a claim, and none has answered since."""
        self._asked_at = math.inf
        """When the read was asked for that is under way."""
        self._not_before = -math.inf

    @property
    def open(self) -> bool:
        """Whether there are claims that no read has answered yet."""
        return bool(self._claims)

    @property
    def due(self) -> float:
        """When the storage may be read, or infinity where nothing asks for that."""
        is_wanted = self.open or self._wanted_at > -math.inf
        return max(self._not_before, self._vain_reads.ready_at()) if is_wanted else math.inf

    def want_read(self, now: float) -> None:
        """Something suggests that the storage knows more than this node."""
        self._wanted_at = now

    def take_read(self, now: float) -> bool:
        """Whether to read the storage now; counts the read."""
        if now < self.due:
            return False
        self._vain_reads.take(now)
        self._asked_at = now
        self._not_before = now + self._answer_timeout
        return True

    def trusts(self, peer: int, now: float) -> bool:
        """Whether the storage has disproved nothing that this peer has claimed of late."""
        return self._distrusted_until.get(peer, -math.inf) <= now

    def note_claim(self, peer: int, version: int, now: float) -> None:
        """A trusted peer claims that the storage has this version, which this node has not read."""
        claims = self._claims.setdefault(peer, [])
        if not claims or version > claims[-1].version:
            claims[1:] = [Claim(version, now)]

    def check(self, version: int, is_news: bool, sent: float, now: float) -> None:
        """Compare the claims with a read that was ``sent`` at that time and showed ``version``.

        What a peer had claimed before the read was sent, the read must show. A peer whose claim it
        does not show is distrusted. ``is_news``: whether this node has not read that version
        before.
        """
        for peer, claims in list(self._claims.items()):
            if any(claim.is_disproved_by(version, sent) for claim in claims):
                self._distrusted_until[peer] = now + self._distrust_time
            claims[:] = [claim for claim in claims if not claim.is_answered_by(version, sent)]
            if not claims:
                del self._claims[peer]
        if self._wanted_at <= sent:
            self._wanted_at = -math.inf
        if self._asked_at <= sent:
            self._end_read(is_news, now)

    def _end_read(self, is_news: bool, now: float) -> None:
        self._asked_at = math.inf
        self._not_before = now + self._pause if is_news else now
        if is_news:
            self._vain_reads.give_back()

    def forget(self, gone: Iterable[int]) -> None:
        """Forget members that have ended."""
        for peer in gone:
            self._claims.pop(peer, None)
            self._distrusted_until.pop(peer, None)
