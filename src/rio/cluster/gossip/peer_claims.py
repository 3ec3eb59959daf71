"""What peers say about the storage, and which peers are believed.

A peer that knows of a newer version makes this node read the storage. The storage alone is
believed: a peer whose claim it disproves is not listened to for a while.
"""

from __future__ import annotations

import math
from collections.abc import Iterable

from rio.cluster.gossip.token_bucket import TokenBucket

REFRESHES = 3
"""Reads of the storage that gossip may cause at once; on average it is one in ``probe_interval``.
"""

DISTRUST = 60
"""For how many ``probe_interval`` a peer is distrusted whose claim the storage has disproved."""


class PeerClaims:
    """Claims of peers about the version of the membership, and the reads that they cause.

    ``probe_interval``: in seconds.
    """

    def __init__(self, probe_interval: float) -> None:
        self._distrust_time = DISTRUST * probe_interval
        self._claims: dict[int, tuple[int, float]] = {}
        self._distrusted_until: dict[int, float] = {}
        self._reads = TokenBucket(probe_interval, REFRESHES)
        self._is_read_wanted = False

    @property
    def open(self) -> bool:
        """Whether there are claims that no read has answered yet."""
        return bool(self._claims)

    @property
    def due(self) -> float:
        """When the storage may be read, or infinity where nothing asks for that."""
        return self._reads.ready_at() if self._is_read_wanted else math.inf

    def want_read(self) -> None:
        """Something suggests that the storage knows more than this node."""
        self._is_read_wanted = True

    def take_read(self, now: float) -> bool:
        """Whether to read the storage now; counts the read."""
        if not self._is_read_wanted or not self._reads.take(now):
            return False
        self._is_read_wanted = False
        return True

    def trusts(self, peer: int, now: float) -> bool:
        """Whether the storage has disproved nothing that this peer has claimed of late."""
        return self._distrusted_until.get(peer, -math.inf) <= now

    def note_claim(self, peer: int, version: int, now: float) -> None:
        """A trusted peer claims that the storage has this version, which this node has not read."""
        self._claims.setdefault(peer, (version, now))
        self.want_read()

    def check(self, version: int, sent: float, now: float) -> None:
        """Compare the claims with a read that was ``sent`` at that time and showed ``version``.

        What a peer had claimed before the read was sent, the read must show. A peer whose claim it
        does not show is distrusted.
        """
        for peer, (claimed, heard_at) in list(self._claims.items()):
            if heard_at <= sent or claimed <= version:
                del self._claims[peer]
            if heard_at <= sent and claimed > version:
                self._distrusted_until[peer] = now + self._distrust_time

    def forget(self, gone: Iterable[int]) -> None:
        """Forget members that have ended."""
        for peer in gone:
            self._claims.pop(peer, None)
            self._distrusted_until.pop(peer, None)
