"""How far a node trusts its own senses."""

from __future__ import annotations

from rio.cluster.gossip.awareness import Awareness


def test_awareness_stays_between_0_and_8_and_stretches_timeouts() -> None:
    awareness = Awareness()
    assert awareness.stretched(0.5) == 0.5
    awareness.adjust(-1)
    assert awareness.health == 0
    awareness.adjust(3)
    assert (awareness.health, awareness.sick, awareness.stretched(0.5)) == (3, True, 2.0)
    awareness.adjust(30)
    assert (awareness.health, awareness.stretched(1.0)) == (8, 9.0)
