"""How much a test run tries: as much as fits into a minute, into a commit, or into a night.

=====================  ===========================================================================
``RIO_QUICK=1``        a tenth of the examples and a fifth of the seeds: ``make quick``
``RIO_SEEDS=300``      so many seeds of each simulation
``RIO_SEED=17``        a single seed, with the servers' logs
``RIO_EXAMPLES=10``    ten times the examples of each property
``RIO_SWEEP=1``        each fault at each point, not one in seven: ``make sweep``
=====================  ===========================================================================
"""

from __future__ import annotations

import os
from collections.abc import Sequence

QUICK = os.environ.get("RIO_QUICK", "") == "1"
ONE = os.environ.get("RIO_SEED", "")
MANY = int(os.environ.get("RIO_SEEDS", "0"))
SWEEP = os.environ.get("RIO_SWEEP", "") == "1"
TIMES = float(os.environ.get("RIO_EXAMPLES", "0.1" if QUICK else "1"))


def seeds(few: int) -> Sequence[int]:
    """The seeds that a simulation runs; ``few`` is their number in ``make test``."""
    return [int(ONE)] if ONE else range(MANY or (-(-few // 5) if QUICK else few))


def examples(number: int) -> int:
    """How many examples of a property Hypothesis tries; ``number`` is that of ``make test``."""
    return max(1, round(number * TIMES))


def how_to_replay(seed: int) -> str:
    return f"replay it with RIO_SEED={seed}"
