"""Three nodes of which none hears another by gossip, while the storage works."""

from __future__ import annotations

from tests.cluster.gossip.world import World


def condemned_in_silence(seed: int) -> int:
    """How many of them the others condemned, although no lease stood still."""
    world = World(3, seed)
    world.run(world.rng.uniform(5.0, 10.0))
    world.cut = lambda source, target: True
    world.run(60.0)
    return len(world.ended())
