"""Which seeds a simulation runs: a few in ``make test``, more with ``RIO_SEEDS=300``, a single one
with ``RIO_SEED=17``.
"""

from __future__ import annotations

import os
from collections.abc import Sequence

ONE = os.environ.get("RIO_SEED", "")
MANY = int(os.environ.get("RIO_SEEDS", "0"))


def seeds(few: int) -> Sequence[int]:
    return [int(ONE)] if ONE else range(MANY or few)


def how_to_replay(seed: int) -> str:
    return f"replay it with RIO_SEED={seed}"
