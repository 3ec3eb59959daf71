"""The whole production runtime in virtual time, under every fault that the simulation knows.

The rules must hold during the faults (D1b), and all must come back when they end (D2). Each seed is
a test: a cluster of its own size, settings and clocks, users with their own clients, a minute of
faults, then none. ``pytest -s tests/simulation/test_runtime.py`` prints what a run costs and
covers. ``RIO_SEEDS=300`` runs more seeds, ``RIO_SEED=17`` a single one, with logs.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from rio.cluster.config import ClusterConfig
from rio.testing import run
from tests.effort import MANY, QUICK, how_to_replay, seeds
from tests.simulation.replay import run_noted
from tests.simulation.world import Settings, World

ROOT = Path(__file__).parents[2]
SECONDS = 120.0 if MANY else 20.0 if QUICK else 60.0


def lived_through(seed: int, settings: Settings) -> World:
    world = World(seed, settings)
    run(world.run(), seed=seed)
    assert not world.findings, f"{how_to_replay(seed)}\n" + "\n".join(world.findings[:10])
    return world


@pytest.fixture(scope="module")
def totals() -> Iterator[Counter[str]]:
    totals: Counter[str] = Counter()
    yield totals
    print("\n" + ", ".join(f"{number} {what}" for what, number in totals.most_common()))


@pytest.mark.parametrize("seed", seeds(20))
def test_no_object_is_twice_no_acknowledged_write_is_lost_none_is_applied_twice_and_all_comes_back(
    seed: int, totals: Counter[str]
) -> None:
    world = lived_through(seed, Settings(seconds=SECONDS))
    totals.update(world.history.outcomes)
    totals.update(
        {
            "faults": sum(world.faults.values()),
            "turns": len(world.history.turns),
            "takeovers": world.history.takeovers,
        }
    )
    totals["virtual seconds"] += int(SECONDS)


@pytest.mark.parametrize("seed", seeds(4))
def test_with_the_strict_settings_no_turn_goes_on_when_others_may_own_its_object(seed: int) -> None:
    faults = (
        "stall",
        "stall_many",
        "silent_storage",
        "no_storage",
        "users_only",
        "late_answers",
        "halves",
        "one_way",
        "slow_storage",
    )
    lived_through(
        seed,
        Settings(seconds=2 * SECONDS, preset="strict", rate_error=0.01, faults=faults, pause=8.0),
    )


@pytest.mark.parametrize("seed", seeds(4))
def test_clocks_that_run_at_half_or_double_speed_lose_nothing_that_was_acknowledged(
    seed: int,
) -> None:
    world = lived_through(seed, Settings(seconds=SECONDS, preset="local", rates=(0.5, 1.0, 2.0)))
    assert world.history.outcomes["acknowledged"]


@pytest.mark.parametrize("seed", seeds(4))
def test_nodes_that_meet_in_the_storage_only_keep_the_same_promises(seed: int) -> None:
    config = ClusterConfig(
        renew_interval=0.3,
        lease_local=1.5,
        lease_evict=1.95,
        poll_interval=0.3,
        storage_timeout=0.6,
        gossip=None,
    )
    lived_through(seed, Settings(seconds=SECONDS, config=config))


@pytest.mark.parametrize("seed", seeds(4))
def test_without_a_fault_every_call_is_answered(seed: int) -> None:
    world = lived_through(seed, Settings(seconds=20.0, faults=(), impatience=0.0))
    assert set(world.history.outcomes) == {"acknowledged"}
    assert world.healed_within == 0.0


@pytest.mark.parametrize("seed", seeds(4))
def test_objects_that_leave_as_soon_as_they_are_idle_keep_the_same_promises(seed: int) -> None:
    lived_through(seed, Settings(seconds=SECONDS, idle_after=1.0, max_objects=6, think=0.3))


# --- replay (D3) ----------------------------------------------------------------------------------


def test_the_same_seed_takes_the_same_steps() -> None:
    for seed in seeds(3):
        settings = Settings(seconds=20.0)
        assert run_noted(World(seed, settings).run(), seed) == run_noted(
            World(seed, settings).run(), seed
        ), how_to_replay(seed)


def test_the_same_seed_takes_the_same_steps_in_another_process() -> None:
    steps, _ = run_noted(World(5, Settings(seconds=20.0)).run(), 5)
    environment = {**os.environ, "PYTHONHASHSEED": "7", "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-m", "tests.simulation.replay", "5", "20"]
    other = subprocess.run(
        command, cwd=ROOT, env=environment, capture_output=True, text=True, check=True
    )
    assert other.stdout.strip() == steps
