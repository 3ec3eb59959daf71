"""Lease, eviction, claim, state and drain as a model (D1a): nothing twice and nothing lost.

Thousands of virtual minutes with all faults. ``RIO_SEEDS=10000`` is for a night, and ``pytest -s``
prints the figures.
"""

from __future__ import annotations

import pytest

from rio.cluster.config import ClusterConfig
from tests.effort import how_to_replay, seeds
from tests.simulation.model import FAULTS, Model
from tests.simulation.storage_outage import wrong_evictions

SECONDS = 300.0


@pytest.mark.timeout(3600)
@pytest.mark.parametrize(("preset", "few"), [("strict", 25), ("fast", 8), ("local", 5)])
def test_the_protocol_admits_nothing_twice_and_loses_nothing(preset: str, few: int) -> None:
    turns = acknowledged = evictions = 0
    for seed in seeds(few):
        model = Model(seed, ClusterConfig.named(preset)).run(SECONDS)
        assert model.findings() == [], how_to_replay(seed)
        turns += model.turns
        acknowledged += sum(map(len, model.answers.values()))
        evictions += model.evictions
    hours = len(seeds(few)) * SECONDS / 3600
    print(
        f"\n{preset}: {hours:.1f} virtual hours, {evictions} evictions, {turns} turns, "
        f"{acknowledged} acknowledged: 0 lost, 0 twice"
    )
    assert evictions


@pytest.mark.parametrize("fault", FAULTS)
def test_each_fault_alone_breaks_nothing(fault: str) -> None:
    for seed in seeds(4):
        assert Model(seed, faults=(fault,)).run(SECONDS).findings() == [], how_to_replay(seed)


def test_the_same_seed_gives_the_same_answers() -> None:
    for seed in seeds(3):
        assert Model(seed).run(SECONDS).answers == Model(seed).run(SECONDS).answers


def test_an_outage_of_the_storage_for_all_evicts_next_to_nobody() -> None:
    wrong = [seed for seed in seeds(50) if wrong_evictions(seed)]
    assert len(wrong) <= 0.01 * len(seeds(50)), wrong
