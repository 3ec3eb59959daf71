"""What a token bucket lets through."""

from __future__ import annotations

from rio.cluster.gossip.token_bucket import TokenBucket


def test_a_token_bucket_lets_a_burst_through_and_then_one_in_each_interval() -> None:
    bucket = TokenBucket(2.0, 3)
    passed = [moment / 10 for moment in range(100) if bucket.take(moment / 10)]
    assert passed == [0.0, 0.1, 0.2, 2.0, 4.0, 6.0, 8.0]


def test_what_is_given_back_was_never_taken() -> None:
    bucket = TokenBucket(2.0, 3)
    for moment in range(100):
        assert bucket.take(moment / 10)
        bucket.give_back()
