"""The rules find each planted mistake within a few seeds, and nothing without it.

Most mistakes show in any run with the right faults. Those that need an accident of timing have a
scenario that aims at it. ``seeds`` is the number of seeds that are tried: each mistake shows in 40
% of its seeds or more, so that nothing depends on a single seed.
"""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from typing import Any, NamedTuple

import pytest
from msgspec.structs import replace

from rio.cluster.config import ClusterConfig
from rio.testing import run
from tests.effort import how_to_replay
from tests.simulation import mutants, promises
from tests.simulation.model import Model
from tests.simulation.silence import condemned_in_silence
from tests.simulation.storage_outage import wrong_evictions
from tests.simulation.world import Settings, World

pytestmark = pytest.mark.slow

EVERYTHING = Settings(seconds=20.0)
STORAGE_ONLY = replace(ClusterConfig.local(), gossip=None)
TIGHT = ClusterConfig(
    renew_interval=0.3,
    lease_local=1.5,
    lease_evict=1.84,
    poll_interval=0.1,
    storage_timeout=0.75,
    gossip=None,
)
"""The shortest eviction that clocks allow, so that a lease that is a little too long shows."""
READERS = Settings(
    seconds=40.0,
    # gossip tells a node that it was evicted before it can do harm: these are about the protection
    # without gossip
    config=STORAGE_ONLY,
    rate_error=0.001,
    actions=("get_elsewhere", "get"),  # an object that waits for a save starts no turn
    relays=9,
    think=0.02,
    fault_every=4.0,
    fault_lasts=(2.0,),
)


LOSSY = Settings(
    seconds=30.0,
    preset="local",
    faults=("lost_answers", "lost_answers", "kill", "stop"),
    counters=12,
    fault_every=0.7,
)


class Planted(NamedTuple):
    name: str
    mutant: mutants.Mutant
    settings: Settings
    finding: str
    """A part of the text that is found."""
    seeds: int
    healthy: ClusterConfig | None = None
    """The settings without the mistake, where the mistake lies in the settings."""


PLANTED = [
    Planted("M1 blind claim", mutants.blind_claim, EVERYTHING, "began after one under token", 3),
    Planted(
        "M2 evict without the counter",
        mutants.evict_without_counter,
        replace(READERS, faults=("late_eviction",), fault_every=3.0),
        "under token",
        20,
    ),
    Planted(
        "M3 lease from the reply",
        mutants.lease_from_the_reply,
        replace(READERS, config=TIGHT, faults=("late_answers",), fault_every=2.5),
        "under token",
        12,
    ),
    Planted(
        "M4 evict within the lease",
        nullcontext,
        replace(
            READERS,
            config=mutants.evict_within_the_lease(TIGHT),
            faults=("users_only",),
            fault_every=2.5,
        ),
        "under token",
        6,
        healthy=TIGHT,
    ),
    Planted("M6 two flights", mutants.two_flights, EVERYTHING, "under token", 12),
    Planted(
        "M7 save without the token",
        mutants.save_without_token,
        Settings(seconds=40.0, faults=("silent_storage",), counters=40, preset="local"),
        "was saved under token",
        12,
    ),
    Planted(
        "M8 default after a failed load",
        mutants.default_after_a_failed_load,
        LOSSY,
        "was answered with",
        12,
    ),
    Planted("M9 retry the unknown", mutants.retry_the_unknown, EVERYTHING, "times", 6),
    Planted(
        "M10 any reply",
        mutants.any_reply,
        replace(EVERYTHING, seconds=5.0),
        "got the answer to number",
        3,
    ),
    Planted(
        "M11 resurrect the dead",
        mutants.resurrect_the_dead,
        replace(EVERYTHING, seconds=30.0),
        "moved back",
        12,
    ),
    Planted(
        "M12 an error means dead", mutants.an_error_means_dead, LOSSY, "which has not ended", 12
    ),
]


def found(seed: int, settings: Settings, mutant: AbstractContextManager[Any]) -> list[str]:
    world = World(seed, settings)
    with mutant:
        run(world.run(), seed=seed)
    return world.findings


@pytest.mark.parametrize("planted", PLANTED, ids=[planted.name for planted in PLANTED])
def test_a_planted_mistake_is_found(planted: Planted) -> None:
    for seed in range(planted.seeds):
        findings = found(seed, planted.settings, planted.mutant())
        if any(planted.finding in finding for finding in findings):
            break
    else:
        pytest.fail(f"{planted.name} went unnoticed in {planted.seeds} seeds")
    healthy = (
        replace(planted.settings, config=planted.healthy) if planted.healthy else planted.settings
    )
    assert found(seed, healthy, nullcontext()) == [], f"without the mistake, {how_to_replay(seed)}"


BROKEN_PROMISES: dict[str, tuple[mutants.Mutant, promises.Scenario]] = {
    "M13 an ordered id": (mutants.an_ordered_id, promises.another_database_server_is_a_pause),
    "M14 no look at the claims": (
        mutants.no_look_at_the_claims,
        promises.placements_that_are_lost_are_noticed,
    ),
    "M15 migrate under live nodes": (
        mutants.migrate_under_live_nodes,
        promises.nothing_is_migrated_under_a_live_node,
    ),
    "M16 first save without the placement": (
        mutants.first_save_without_the_placement,
        promises.a_paused_activation_saves_nothing_after_its_successor_has_read,
    ),
    "M17 a fence that forgets a state": (
        mutants.a_fence_that_forgets_a_state,
        promises.a_load_fences_all_states_of_an_object,
    ),
    "M18 a settings row that is not compared": (
        mutants.a_settings_row_that_is_not_compared,
        promises.who_differs_in_its_settings_does_not_join,
    ),
    "M19 a newer schema that is not refused": (
        mutants.a_newer_schema_that_is_not_refused,
        promises.an_old_node_leaves_a_newer_schema_alone,
    ),
    "M21 old claims while new exists": (
        mutants.old_claims_while_new_exists,
        promises.an_old_node_claims_nothing_while_most_are_new,
    ),
    "M22 unknown fields dropped": (
        mutants.unknown_fields_dropped,
        promises.an_old_node_keeps_the_fields_that_it_does_not_know,
    ),
}
"""Mistakes in what storages keep and who claims; each shows in its scenario at once."""


@pytest.mark.parametrize("name", BROKEN_PROMISES)
def test_a_mistake_breaks_the_promise_that_is_kept_without_it(name: str) -> None:
    mutant, scenario = BROKEN_PROMISES[name]
    assert scenario() == []
    with mutant():
        assert scenario() != []


def test_m5_no_gap_rule_is_found_by_the_members_that_it_evicts() -> None:
    with mutants.no_gap_rule():
        assert sum(wrong_evictions(seed) > 0 for seed in range(40)) >= 3
    assert sum(wrong_evictions(seed) > 0 for seed in range(40)) == 0


def test_m20_a_voter_that_hears_nobody_is_found_by_the_members_that_it_condemns() -> None:
    with mutants.a_voter_that_hears_nobody():
        assert sum(condemned_in_silence(seed) > 0 for seed in range(120)) >= 3
    assert sum(condemned_in_silence(seed) > 0 for seed in range(120)) == 0


@pytest.mark.parametrize(
    "mutant",
    [mutants.blind_claim, mutants.resurrect_the_dead],
    ids=["M1 blind claim", "M11 resurrect the dead"],
)
def test_the_model_finds_what_is_wrong_with_the_storage_too(mutant: mutants.Mutant) -> None:
    with mutant():
        assert any(Model(seed).run(300.0).findings() for seed in range(20))


def test_the_model_finds_an_eviction_within_the_lease() -> None:
    config = mutants.evict_within_the_lease(ClusterConfig.strict())
    assert any(Model(seed, config).run(300.0).findings() for seed in range(10))
