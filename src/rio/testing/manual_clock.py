"""A clock that a test sets."""

from __future__ import annotations


class ManualClock:
    """A clock that stands still until it is advanced: ``rio.Server(..., clock=clock)``, then
    ``clock.advance(60.0)``.

    ``start``: what it shows at first, in seconds.
    """

    def __init__(self, start: float = 0.0) -> None:
        self._now = start

    def __call__(self) -> float:
        """What the clock shows, in seconds."""
        return self._now

    def advance(self, seconds: float) -> None:
        """Let time pass.

        :raises ValueError: ``seconds`` is negative: the clocks of ``rio`` never go back.
        """
        if seconds < 0:
            raise ValueError(f"a clock does not go back: {seconds}")
        self._now += seconds
