"""The tests of idle objects find each of these planted mistakes."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any
from unittest import mock

import pytest

from rio.server.activation import Activation
from rio.server.idle import IdleObjects, Wheel
from rio.server.ownership import Ownership
from rio.server.segments import Segments
from tests.server import test_idle

Mutant = Callable[[], AbstractContextManager[Any]]


def evict_with_waiting_calls() -> AbstractContextManager[Any]:
    return mock.patch.object(IdleObjects, "_is_in_use", return_value=False)


def forget_the_release() -> AbstractContextManager[Any]:
    async def release(self: Any, object_id: Any, token: int) -> None: ...

    return mock.patch.object(Ownership, "release", release)


def evict_while_fenced() -> AbstractContextManager[Any]:
    return mock.patch.object(IdleObjects, "_may_leave", True)


def evict_after_a_renewal_that_failed() -> AbstractContextManager[Any]:
    tick = IdleObjects.tick
    return mock.patch.object(
        IdleObjects, "tick", lambda self, may_evict: tick(self, may_evict=True)
    )


def ignore_the_segments() -> AbstractContextManager[Any]:
    return mock.patch.object(Segments, "_was_used", return_value=False)


def evict_by_the_first_use() -> AbstractContextManager[Any]:
    """An object that is used is not filed anew."""
    return mock.patch.object(IdleObjects, "_idle_at", lambda self, activation, now, idle_after: now)


def ignore_keep_alive() -> AbstractContextManager[Any]:
    return mock.patch.object(Activation, "keep_alive", return_value=None)


def look_too_late() -> AbstractContextManager[Any]:
    turn = Wheel.turn
    return mock.patch.object(Wheel, "turn", lambda self, now: turn(self, now - 5.0))


PLANTED: list[tuple[Mutant, Callable[[], None]]] = [
    (
        evict_with_waiting_calls,
        test_idle.test_a_turn_that_runs_and_calls_that_wait_are_a_use,
    ),
    (forget_the_release, test_idle.test_an_idle_object_is_given_back_to_the_cluster),
    (evict_while_fenced, test_idle.test_none_leaves_while_the_storage_does_not_answer),
    (
        evict_after_a_renewal_that_failed,
        test_idle.test_none_leaves_after_a_renewal_that_failed,
    ),
    (
        ignore_the_segments,
        test_idle.test_a_scan_over_many_objects_does_not_drive_out_those_in_use,
    ),
    (evict_by_the_first_use, test_idle.test_an_object_in_use_stays),
    (
        ignore_keep_alive,
        test_idle.test_keep_alive_keeps_an_object_for_at_least_so_long,
    ),
    (
        look_too_late,
        lambda: test_idle.test_an_object_leaves_between_idle_after_and_a_sixteenth_more(5.0),
    ),
]


@pytest.mark.parametrize(
    ("mutant", "test"), PLANTED, ids=[mutant.__name__ for mutant, _ in PLANTED]
)
def test_a_planted_mistake_is_found(mutant: Mutant, test: Callable[[], None]) -> None:
    with mutant(), pytest.raises(AssertionError):
        test()
