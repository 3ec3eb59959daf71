"""How long a suspicion stands: the arithmetic of memberlist."""

from __future__ import annotations

import pytest

from rio.cluster.gossip.suspicion import (
    remaining_suspicion,
    shortest_suspicion,
    wanted_confirmations,
)


@pytest.mark.parametrize(
    ("confirmations", "wanted", "elapsed", "expected"),
    [(0, 3, 0, 30), (1, 3, 2, 14), (2, 3, 3, 4.81), (3, 3, 4, -2), (4, 3, 5, -3), (5, 3, 10, -8)],
)
def test_a_suspicion_lasts_as_long_as_memberlists(
    confirmations: int, wanted: int, elapsed: float, expected: float
) -> None:
    """The table is that of memberlist's ``TestSuspicion_remainingSuspicionTime``, 2 s to 30 s."""
    assert remaining_suspicion(confirmations, wanted, elapsed, 2.0, 30.0) == pytest.approx(
        expected, abs=1e-9
    )


def test_a_suspicion_that_nobody_could_confirm_takes_the_shortest_time() -> None:
    assert remaining_suspicion(0, 0, 1.0, 4.0, 24.0) == 3.0


@pytest.mark.parametrize(
    ("members", "expected"),
    [(0, 4.0), (1, 4.0), (5, 4.0), (10, 4.0), (50, 6.792), (100, 8.0), (500, 10.792), (1000, 12.0)],
)
def test_the_shortest_suspicion_grows_with_the_logarithm_of_the_cluster(
    members: int, expected: float
) -> None:
    assert shortest_suspicion(4, members, 1.0) == pytest.approx(expected)
    assert shortest_suspicion(4, members, 0.5) == pytest.approx(expected / 2)


@pytest.mark.parametrize(("members", "expected"), [(1, 0), (2, 0), (3, 0), (4, 2), (1000, 2)])
def test_confirmations_are_wanted_where_there_is_anybody_to_give_them(
    members: int, expected: int
) -> None:
    assert wanted_confirmations(members) == expected
