"""Whatever goes wrong at any point of a small life of a cluster, everything answers afterwards.

A first run under a virtual clock counts the points: each wait of a task of ours, and each call into
a storage, a hook, a handler, a constructor, ``__repr__``, a decoder, an encoder and the log. Then
each point fails in each way, one in a run. ``make test`` runs a fixed sample, ``make sweep`` all.

Two faults are not tried. A storage that calls ``sys.exit()`` ends the program, as everywhere in
asyncio. A handler whose storage ignores cancellation and never returns keeps its object.
"""

from __future__ import annotations

import asyncio
import gc
import itertools

import pytest

from tests.effort import SWEEP
from tests.faults import scenario
from tests.faults.plan import ROLE_NAMES, Plan, Target

SHARES = 4
"""Tests into which the points are dealt, so that none takes long."""
STRIDE = 1 if SWEEP else 7
"""One in so many is run. Points have two to four faults: with seven, each of them has its turn."""


def targets(plan: Plan) -> list[Target]:
    """All that can go wrong at the points that a run has passed."""
    return [
        Target(point, nth, fault)
        for point, count in sorted(plan.calls.items())
        for nth in range(1, count + 1)
        for fault in faults_of(plan, point)
    ] + [
        Target(name, nth, fault, step)
        for (name, nth), steps in sorted(plan.steps.items())
        for step in range(steps + 1)
        for fault in ("is cancelled", "is cancelled twice")
    ]


def faults_of(plan: Plan, point: str) -> list[str]:
    is_storage = point.split(".")[0] in ROLE_NAMES
    faults = ["raises Exception", "raises CancelledError"]
    if not is_storage:
        faults.append("raises SystemExit")
    if plan.waits[point]:
        faults.append("never returns")
    if is_storage:
        faults.append("loses its answer")
    return faults


def fails(plan: Plan) -> str:
    """What is wrong after a run under a plan; empty if nothing is."""
    try:
        scenario.run(plan)
    except scenario.Failed as failure:
        return f"{plan.target}: {failure}"
    except BaseException as error:  # the time limit of the test
        error.add_note(f"{plan.target}: this is where it was")
        raise
    return ""


@pytest.mark.slow
@pytest.mark.timeout(1800 if SWEEP else 120)
@pytest.mark.parametrize("share", range(SHARES))
def test_whatever_goes_wrong_at_any_point_everything_answers(share: int) -> None:
    recorded = Plan()
    assert not fails(recorded)
    plans = [Plan(target) for target in targets(recorded)[::STRIDE][share::SHARES]]
    failures = [failure for plan in plans if (failure := fails(plan))]
    assert not failures, "\n".join(failures)
    hits = sum(plan.hit for plan in plans)
    assert hits > 0.8 * len(plans), "a run passes the points of the first one"


def test_a_run_that_goes_on_for_ever_is_given_up_with_the_name_of_its_point(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async def play(_: object) -> None:
        for _ in itertools.count():
            await asyncio.sleep(0)

    monkeypatch.setattr(scenario, "play", play)
    monkeypatch.setattr(scenario, "MOST_TURNS", 300)
    target = Target("before_load", 1, "raises Exception")
    assert fails(Plan(target)) == "before_load #1: raises Exception: it goes on for ever"
    gc.collect()  # what was cut off ends in this test
