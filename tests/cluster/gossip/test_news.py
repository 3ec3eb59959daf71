"""How often a piece of news is sent."""

from __future__ import annotations

import pytest

from rio.cluster.gossip.news import retransmit_limit


@pytest.mark.parametrize(
    ("members", "expected"),
    [(1, 4), (3, 4), (9, 4), (10, 8), (99, 8), (100, 12), (999, 12), (1000, 16)],
)
def test_the_retransmit_limit_grows_with_the_logarithm_of_the_cluster(
    members: int, expected: int
) -> None:
    assert retransmit_limit(4, members) == expected
