"""How long to wait before the next attempt."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import random

_MAX_DOUBLINGS = 32  # far more than any ``longest`` needs; a float overflows at 1,024


def backoff(failures: int, first: float, longest: float, rng: random.Random) -> float:
    """Seconds to wait after ``failures`` failed attempts in a row, of which there is at least one.

    The time is drawn evenly between 0 and ``min(longest, first * 2 ** (failures - 1))``, so that
    programs that failed at the same time do not try again at the same time. ``first`` and
    ``longest`` are seconds.
    """
    doublings = min(failures - 1, _MAX_DOUBLINGS)
    return rng.uniform(0.0, min(longest, first * 2.0**doublings))


def make_rng() -> random.Random:
    """The source of chance of a client or a node that was given none.

    The module takes longer to load than ten of ``rio``, so the first of them loads it.
    """
    import random

    return random.Random()
