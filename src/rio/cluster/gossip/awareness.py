"""How far a node trusts its own senses: Lifeguard's local health, as in memberlist's
``awareness.go``.
"""

from __future__ import annotations

MAX_HEALTH = 8
"""The worst that a node may think of itself; 0 is the best."""

SICK = 3
"""From this health on a node does not vote, does not tell whom it suspects, and does not probe for
others: that it reaches nobody may be its own fault.
"""

SLOW_LOOP = 0.25
"""Seconds by which the event loop is late, above which a node trusts itself 1 less."""

STALLED_LOOP = 1.0
"""Seconds by which the event loop is late, above which a node trusts itself 2 less."""


class Awareness:
    """A node's opinion of its own senses, as :attr:`health` from 0 (good) to 8.

    Timeouts are stretched by ``1 + health``.
    """

    def __init__(self) -> None:
        self.health = 0

    @property
    def sick(self) -> bool:
        """Whether the node distrusts its senses so far that it keeps its suspicions to itself."""
        return self.health >= SICK

    def adjust(self, change: int) -> None:
        """Add ``change`` to the health, within its limits."""
        self.health = min(MAX_HEALTH, max(0, self.health + change))

    def note_late_loop(self, seconds: float) -> None:
        """Trust the node less if the event loop was late by so many seconds."""
        if seconds > SLOW_LOOP:
            self.adjust(2 if seconds > STALLED_LOOP else 1)

    def stretched(self, timeout: float) -> float:
        """``timeout``, longer for a node that distrusts itself."""
        return timeout * (1 + self.health)
