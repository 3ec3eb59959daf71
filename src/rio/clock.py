"""The time by which leases are held and observers count, and how long to wait before one tries
again.

Nothing else in ``rio`` may take a protocol decision by a clock.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from typing import TypeAlias

Clock: TypeAlias = Callable[[], float]
"""Seconds since some fixed instant, never going back.

Only differences between two readings of the same clock mean anything.
"""

_BOOTTIME: int | None = getattr(time, "CLOCK_BOOTTIME", None)


def now() -> float:
    """Seconds since the machine started, time spent suspended included.

    ``CLOCK_BOOTTIME`` where the system has it (Linux): a laptop or a virtual machine that was
    suspended wakes with its lease run out, as the others, who saw it silent, have evicted it.
    ``time.monotonic()`` stands still during the suspend and would call the lease valid. Elsewhere
    it is ``time.monotonic()``, and a suspend must be taken for what it is: the fencing token stops
    the late write, not the clock. The wall clock is never used: somebody sets it.
    """
    return time.monotonic() if _BOOTTIME is None else time.clock_gettime(_BOOTTIME)


def backoff(failures: int, first: float, longest: float, rng: random.Random) -> float:
    """Seconds before the next attempt after ``failures`` in a row: full jitter below ``min(longest,
    first * 2 ** (failures - 1))``.
    """
    return rng.uniform(
        0.0, min(longest, first * 2.0 ** min(failures - 1, 32))
    )  # no more doubling than a float can take
