"""How long to wait before the next attempt."""

from __future__ import annotations

import random


def backoff(failures: int, first: float, longest: float, rng: random.Random) -> float:
    """Seconds before the next attempt after ``failures`` in a row: full jitter below
    ``min(longest, first * 2 ** (failures - 1))``.
    """
    doublings = min(failures - 1, 32)  # no more than a float can take
    return rng.uniform(0.0, min(longest, first * 2.0**doublings))
