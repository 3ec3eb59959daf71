"""How many votes condemn a member, who may cast them, and which of them count."""

from __future__ import annotations

import pytest

from rio.cluster.gossip.votes import FreshVotes, quorum, reaches_majority
from rio.contracts.membership import Member, MembershipSnapshot, MemberStatus, Vote

ACTIVE = MemberStatus.ACTIVE


@pytest.mark.parametrize(
    ("others", "expected"),
    [(1, 1), (2, 2), (3, 2), (4, 3), (5, 3), (9, 5), (13, 7), (14, 8), (99, 8), (999, 8)],
)
def test_a_quorum_is_a_majority_but_at_least_2_and_at_most_8(others: int, expected: int) -> None:
    assert quorum(others) == expected


@pytest.mark.parametrize(
    ("count", "unreachable", "waited", "expected"),
    [
        (3, {2, 3}, False, False),
        (3, {2}, False, True),
        (4, {3, 4}, False, True),  # has the oldest
        (4, {1, 2}, False, False),
        (4, {1, 2}, True, True),  # the oldest may be the broken one
        (2, {2}, False, True),
        (2, {1}, False, False),
        (5, {1, 2, 3}, True, False),
    ],
)
def test_only_the_side_that_reaches_a_majority_may_vote(
    count: int, unreachable: set[int], waited: bool, expected: bool
) -> None:
    assert (
        reaches_majority(frozenset(range(1, count + 1)), frozenset(unreachable), waited) is expected
    )


def test_votes_that_do_not_change_for_a_minute_no_longer_count() -> None:
    votes, voters = FreshVotes(60.0, 2.5), frozenset({2, 4})
    votes.read(MembershipSnapshot(1, 9, (Member(3, "a:3", ACTIVE),)), 0.0)
    cast = MembershipSnapshot(1, 9, (Member(3, "a:3", ACTIVE, votes=(Vote(2, 5.0), Vote(4, 5.0))),))
    for now in range(1, 62):
        votes.read(cast, float(now))
        assert votes.count(3, voters, float(now)) == 2
    votes.read(cast, 62.0)
    assert votes.count(3, voters, 62.0) == 0
    votes.read(
        MembershipSnapshot(1, 9, (Member(3, "a:3", ACTIVE, votes=(Vote(2, 6.0), Vote(4, 5.0))),)),
        63.0,
    )
    assert votes.count(3, voters, 63.0) == 1


@pytest.mark.parametrize("before", [0, 1])
def test_votes_from_before_one_looked_or_after_a_gap_count_only_once_renewed(before: int) -> None:
    votes, voters = FreshVotes(60.0, 2.5), frozenset({2})
    for now in range(before):
        votes.read(MembershipSnapshot(1, 9, ()), float(now))
    votes.read(MembershipSnapshot(1, 9, (Member(3, "a:3", ACTIVE, votes=(Vote(2, 5.0),)),)), 100.0)
    assert votes.count(3, voters, 100.0) == 0
    votes.read(MembershipSnapshot(1, 9, (Member(3, "a:3", ACTIVE, votes=(Vote(2, 6.0),)),)), 101.0)
    assert votes.count(3, voters, 101.0) == 1
