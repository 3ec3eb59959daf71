"""Which member is probed next."""

from __future__ import annotations

from collections.abc import Iterable

from rio.cluster.gossip.member_ring import MemberRing
from rio.cluster.gossip.suspicion import Suspicions

MAX_URGENT = 64
"""Members that wait to be probed out of turn, at most."""


class ProbeOrder:
    """Every other probe is for a member that is suspected, if there is one; the rest go round the
    ring.
    """

    def __init__(self, ring: MemberRing, suspicions: Suspicions) -> None:
        self._ring = ring
        self._suspicions = suspicions
        self._urgent: dict[int, None] = {}
        self._is_urgent_turn = False

    def look_into(self, generation: int) -> None:
        """Others suspect this member: probe it out of turn, so that this node sees for itself."""
        if len(self._urgent) < MAX_URGENT:
            self._urgent[generation] = None

    def next(self, now: float) -> int | None:
        """Return the member to be probed now, or ``None`` where there are no others."""
        self._is_urgent_turn = not self._is_urgent_turn
        urgent = self._next_urgent(now) if self._is_urgent_turn else None
        return self._ring.next() if urgent is None else urgent

    def forget(self, gone: Iterable[int]) -> None:
        """Do not probe members that have ended out of turn."""
        for generation in gone:
            self._urgent.pop(generation, None)

    def _next_urgent(self, now: float) -> int | None:
        """A member that others suspect, as long as too few do; or a member that this node suspects,
        to see whether it is back.
        """
        while self._urgent:
            target = next(iter(self._urgent))
            del self._urgent[target]
            if self._suspicions.needs_witness(target):
                return target
        return self._suspicions.next_to_probe(now)
