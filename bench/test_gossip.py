"""What does the merge of a whole state of 8, 64 and 1,024 members cost?

It comes off the wire, and is merged by the compiled table and in plain Python.
"""

from __future__ import annotations

import os
from typing import Any

import pytest

from bench.figures import Work, in_turn
from bench.members import full_state
from rio._core.gossip import MemberTable
from tests.core.gossip_twin import State

SIZES = pytest.mark.parametrize("members", [8, 64, 1024])
TABLES = {8: 200, 64: 50, 1024: 5}
ROUNDS = 20


@SIZES
def test_merge_of_news(benchmark: Any, report: Any, members: int) -> None:
    """Merge a state of which half of the records are news.

    Each merge has a fresh table, which is made outside of the measurement.
    """
    own, other = full_state(members, 1), full_state(members, 2)
    own_encoded, other_encoded, count = own.encode(), other.encode(), TABLES[members]

    def make_tables() -> None:
        tables[:] = [MemberTable() for _ in range(count)]
        for table in tables:
            table.merge(own_encoded)

    def merge() -> None:
        for table in tables:
            assert 0 < len(table.merge(other_encoded)) < members

    tables: list[MemberTable] = []
    compiled = Work(merge, count, os.getpid(), before=make_tables)
    plain = Work(lambda: own.join(State.decode(other_encoded)), 1, os.getpid())
    in_turn(benchmark, compiled, plain, rounds=ROUNDS)
    limit = {"at_most": 100.0} if members == 1024 else {}
    report(
        f"merge the states of {members:,} members",
        compiled.cpu_micros,
        "µs",
        beside=("twin", plain.cpu_micros),
        **limit,
    )


@SIZES
def test_merge_of_what_is_known_already(benchmark: Any, report: Any, members: int) -> None:
    state = full_state(members, 1)
    table, encoded, count = MemberTable(), state.encode(), TABLES[members]
    table.merge(encoded)

    def merge() -> None:
        for _ in range(count):
            assert table.merge(encoded) == []

    compiled = Work(merge, count, os.getpid())
    plain = Work(lambda: state.join(State.decode(encoded)), 1, os.getpid())
    in_turn(benchmark, compiled, plain, rounds=ROUNDS)
    report(
        f"merge what is known of {members:,} members",
        compiled.cpu_micros,
        "µs",
        beside=("twin", plain.cpu_micros),
    )


@SIZES
def test_a_message_of_8_records(benchmark: Any, report: Any, members: int) -> None:
    """Gossip is this most of the time. It must not cost more in a larger cluster."""

    def merging(members: int) -> Work:
        table, message = MemberTable(), MemberTable()
        table.merge(full_state(members, 1).encode())
        message.merge(full_state(members, 2).encode())
        encoded = message.encode(range(1, members + 1, members // 8), snapshot=False)

        def merge() -> None:
            for _ in range(1000):
                table.merge(encoded)

        return Work(merge, 1000, os.getpid())

    large, small = merging(members), merging(8)
    in_turn(benchmark, large, small, rounds=ROUNDS)
    report(
        f"a message of 8 records into a table of {members:,}",
        large.cpu_micros,
        "µs",
        beside=("of 8", small.cpu_micros),
    )
