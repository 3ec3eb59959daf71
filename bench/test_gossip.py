"""What does a merge cost: a whole state of 8, 64 and 1,024 members off the wire, compiled and in plain Python?

Run: ``make bench ARGS="-k gossip"``. To hold: at most 100 µs for 1,024 members, compiled.
"""

from __future__ import annotations

import random

import pytest
from pytest_benchmark.fixture import BenchmarkFixture

from rio._core.gossip import MemberTable
from tests.core.gossip_twin import Record, Snapshot, State

SIZES = [8, 64, 1024]


def full_state(members: int, seed: int) -> State:
    """Every member has said something, 1 in 20 is suspected; the incarnations are partly older and partly newer than with another seed."""
    rng = random.Random(seed)
    generations = range(1, members + 1)
    snapshot = Snapshot(5, members, tuple((generation, 1) for generation in generations))
    suspects = [tuple(sorted(rng.sample(generations, 2))) if rng.random() < 0.05 else () for _ in generations]
    return State(snapshot, {g: Record(rng.randrange(4), 1, b"x" * 64, suspects[g - 1]) for g in generations})


@pytest.mark.parametrize("members", SIZES)
def test_merge_compiled(benchmark: BenchmarkFixture, members: int) -> None:
    """Half of the records are news; a fresh table for each round, made outside of the measurement."""
    own, other = full_state(members, 1).encode(), full_state(members, 2).encode()

    def fresh() -> tuple[tuple[MemberTable], dict[str, object]]:
        table = MemberTable()
        table.merge(own)
        return (table,), {}

    changed = benchmark.pedantic(lambda table: table.merge(other), setup=fresh, rounds=500)
    assert 0 < len(changed) < members


@pytest.mark.parametrize("members", SIZES)
def test_merge_compiled_of_what_is_known_already(benchmark: BenchmarkFixture, members: int) -> None:
    table, state = MemberTable(), full_state(members, 1).encode()
    table.merge(state)
    assert benchmark(table.merge, state) == []


@pytest.mark.parametrize("members", SIZES)
def test_merge_plain_python(benchmark: BenchmarkFixture, members: int) -> None:
    own, other = full_state(members, 1), full_state(members, 2).encode()
    benchmark(lambda: own.join(State.decode(other)))


@pytest.mark.parametrize("members", SIZES)
def test_a_message_of_8_records_into_a_table_of(benchmark: BenchmarkFixture, members: int) -> None:
    table, message = MemberTable(), MemberTable()
    table.merge(full_state(members, 1).encode())
    message.merge(full_state(members, 2).encode())
    benchmark(table.merge, message.encode(range(1, members + 1, members // 8), snapshot=False))
