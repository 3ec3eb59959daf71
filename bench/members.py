"""Member tables to merge."""

from __future__ import annotations

import random

from tests.core.gossip_twin import Record, Snapshot, State


def full_state(members: int, seed: int) -> State:
    """A table in which every member has a record, and 1 in 20 is suspected.

    The incarnations are partly older and partly newer than those of another seed.
    """
    rng = random.Random(seed)
    generations = range(1, members + 1)
    snapshot = Snapshot(5, members, tuple((generation, 1) for generation in generations))
    suspects = [
        tuple(sorted(rng.sample(generations, 2))) if rng.random() < 0.05 else ()
        for _ in generations
    ]
    return State(
        snapshot, {g: Record(rng.randrange(4), 1, b"x" * 64, suspects[g - 1]) for g in generations}
    )
