"""A limit on how often something happens."""

from __future__ import annotations

import math


class TokenBucket:
    """Admits ``burst`` events at once, and on average one in ``interval`` seconds."""

    def __init__(self, interval: float, burst: int) -> None:
        self._interval = interval
        self._burst = burst
        self._full_at = -math.inf

    def ready_at(self) -> float:
        """The time from which on one more event is admitted."""
        return self._full_at - (self._burst - 1) * self._interval

    def take(self, now: float) -> bool:
        """Count an event at ``now``, and return whether it is admitted."""
        if now < self.ready_at():
            return False
        self._full_at = max(now, self._full_at) + self._interval
        return True

    def give_back(self) -> None:
        """An event that was counted shall not count."""
        self._full_at -= self._interval
