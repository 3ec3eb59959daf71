"""All nodes lose their storage for 15 seconds, and get it back (D6)."""

from __future__ import annotations

from tests.simulation.model import Model


def wrong_evictions(seed: int) -> int:
    """How many members the model declared dead although no process had died."""
    model = Model(seed, faults=())
    model.run(model.rng.uniform(10.0, 12.0))
    model.outage_until = model.now + 15.0
    model.run(60.0)
    return model.evictions
