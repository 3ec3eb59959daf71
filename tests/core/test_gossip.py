"""The member table: the laws of its merge, its bounds, and its twin in plain Python.

The specification asks for 20,000 triples of states: ``RIO_EXAMPLES=10``.
"""

from __future__ import annotations

import contextlib
import random
from collections.abc import Sequence
from typing import Any

import msgpack
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from rio._core.gossip import (
    MAX_MEMBERS,
    MAX_NEWCOMERS,
    MAX_STATE,
    MAX_SUSPECTS,
    STATUSES,
    MemberTable,
)
from rio._core.gossip import Record as Compiled
from rio._core.wire import MAX_METADATA
from rio.contracts import MemberStatus
from rio.errors import ProtocolError
from tests.core.gossip_twin import CONDEMNED, Record, Snapshot, State
from tests.effort import examples

thorough = settings(
    max_examples=examples(2000),
    deadline=None,
    database=None,
    suppress_health_check=list(HealthCheck),
)
pairwise = settings(thorough, max_examples=examples(500))

NEWEST = 16


class Choices:
    """Choices that are read off some bytes; once the bytes have ended, each choice is the smallest.

    Hypothesis draws the bytes at once and shrinks them. It would take a hundred times as long to
    draw each field of a state by itself as it takes to merge the states.
    """

    def __init__(self, data: bytes) -> None:
        self._bytes = iter(data)

    def number(self, low: int, high: int) -> int:
        """A number between two bounds, which are included and at most 255 apart."""
        return low + next(self._bytes, 0) % (high - low + 1)

    def one_of(self, options: Sequence[Any]) -> Any:
        return options[self.number(0, len(options) - 1)]

    def history(self) -> list[Snapshot]:
        """The snapshots of one storage at its successive versions.

        The storage issues generations in order, a status only rises, and a purged member stays
        away.
        """
        high, members = 0, dict[int, int]()
        snapshots = [Snapshot()]
        for version in range(1, self.number(2, 8)):
            match self.one_of(("issue", "issue", "advance", "purge")):
                case "issue":
                    high += self.number(1, 3)
                    members[high] = self.number(0, 1)
                case "advance" if members:
                    generation = self.one_of(sorted(members))
                    members[generation] = self.number(members[generation], 5)
                case "purge":
                    for generation in [
                        generation for generation, status in members.items() if status > CONDEMNED
                    ][:1]:
                        del members[generation]
            snapshots.append(Snapshot(version, high, tuple(sorted(members.items()))))
        return snapshots

    def generation(self) -> int:
        return self.number(1, NEWEST)

    def metadata(self) -> bytes:
        """Short and similar bytes, or up to 128 others."""
        few = self.one_of((b"", b"a", b"ab", b"b", None))
        if few is not None:
            return few
        length, pattern = self.number(0, 128), [self.number(0, 255) for _ in range(3)]
        return bytes(pattern * 43)[:length]

    def record(self) -> Record:
        incarnation = self.one_of((0, 1, 2, 0xFFFF_FFFF))
        suspects = {self.generation() for _ in range(self.number(0, MAX_SUSPECTS))}
        return Record(incarnation, self.number(0, 2), self.metadata(), tuple(sorted(suspects)))

    def states(self, count: int) -> list[State]:
        """States that members may hold which all read the same storage."""
        history = self.history()
        return [
            State(
                self.one_of(history),
                {self.generation(): self.record() for _ in range(self.number(0, 6))},
            ).filtered()
            for _ in range(count)
        ]


def states(count: int) -> st.SearchStrategy[list[State]]:
    """States with up to 6 records each, at up to 8 versions of one storage."""
    size = 64 + 128 * count  # no more is ever read
    return st.binary(min_size=size, max_size=size).map(lambda data: Choices(data).states(count))


def table(*joined: State) -> MemberTable:
    made = MemberTable()
    for state in joined:
        made.merge(state.encode())
    return made


def merged(one: MemberTable, other: MemberTable) -> MemberTable:
    made = MemberTable()
    made.merge(one.encode())
    made.merge(other.encode())
    return made


# --- the laws -------------------------------------------------------------------------------------


@thorough
@given(states(3))
def test_the_merge_is_commutative_associative_idempotent_and_inflationary(
    triple: list[State],
) -> None:
    a, b, c = (table(state) for state in triple)
    ab = merged(a, b)
    assert ab.encode() == merged(b, a).encode()
    assert merged(ab, c).encode() == merged(a, merged(b, c)).encode()
    assert merged(a, a).encode() == a.encode()
    for part in (a, b):  # what was merged is below the result: merging it again adds nothing
        before = ab.encode()
        assert ab.merge(part.encode()) == []
        assert ab.encode() == before


@pairwise
@given(states(2))
def test_the_merge_does_what_its_twin_does(pair: list[State]) -> None:
    a, b = pair
    compiled, expected = table(a), a.join(b)
    changed = compiled.merge(b.encode())
    assert compiled.encode() == expected.encode()
    assert set(changed) == {
        generation
        for generation, record in expected.records.items()
        if a.records.get(generation) != record
    }


@pairwise
@given(states(2))
def test_two_tables_have_the_same_digests_where_they_hold_the_same_records(
    pair: list[State],
) -> None:
    a, b = pair
    for bucket, (one, other) in enumerate(zip(table(a).digests(), table(b).digests(), strict=True)):
        in_a = {
            generation: record
            for generation, record in a.records.items()
            if generation % 64 == bucket
        }
        in_b = {
            generation: record
            for generation, record in b.records.items()
            if generation % 64 == bucket
        }
        assert (one == other) == (in_a == in_b)


@settings(max_examples=examples(200), deadline=None, database=None)
@given(st.lists(states(1).map(lambda drawn: drawn[0]), max_size=12), st.integers(0, 12))
def test_a_table_never_outgrows_its_bounds(steps: list[State], seed: int) -> None:
    rng, grown = random.Random(seed), MemberTable()
    for state in steps:
        grown.merge(state.encode())
        grown.put(rng.randrange(1, 40), rng.randrange(3), 1, b"", range(1, rng.randrange(2, 30)))
    assert all(
        len(record.suspects) <= MAX_SUSPECTS and len(record.metadata) <= MAX_METADATA
        for record in grown.records()
    )
    assert len(grown.newcomers()) <= MAX_NEWCOMERS
    assert len(grown.encode()) <= MAX_STATE


@pytest.mark.parametrize("seed", range(20))
def test_members_that_hear_everything_agree_whatever_the_order_and_however_often(seed: int) -> None:
    rng = random.Random(seed)
    messages = [
        State(Snapshot(), {rng.randrange(1, 12): random_record(rng)}).encode() for _ in range(60)
    ]
    agreed = set()
    for _ in range(8):
        heard = messages + rng.choices(messages, k=30)
        rng.shuffle(heard)
        member = MemberTable()
        for message in heard:
            member.merge(message)
        agreed.add(member.encode())
    assert len(agreed) == 1


def random_record(rng: random.Random) -> Record:
    suspects = tuple(sorted(rng.sample(range(1, 30), rng.randrange(5))))
    return Record(rng.randrange(3), rng.randrange(3), rng.choice([b"", b"x", b"y" * 128]), suspects)


# --- the rules, one by one ------------------------------------------------------------------------


def listed(*members: tuple[int, int], version: int = 1, high: int = 9) -> State:
    return State(Snapshot(version, high, members))


def test_a_higher_incarnation_wins_whole() -> None:
    known = table(State(records={1: Record(4, 2, b"old", (3, 4))}))
    assert known.put(1, 5, 0) is True
    assert known.record(1) == Compiled(1, 5, 0, b"", ())
    assert known.put(1, 4, 2, b"late", (7,)) is False
    assert known.record(1) == Compiled(1, 5, 0, b"", ())


def test_of_equal_incarnations_the_larger_status_wins_with_its_metadata() -> None:
    known = table(State(records={1: Record(4, 1, b"z")}))
    known.put(1, 4, 2, b"a")
    assert known.record(1) == Compiled(1, 4, 2, b"a", ())
    known.put(1, 4, 2, b"")
    assert known.record(1) == Compiled(1, 4, 2, b"a", ())
    known.put(1, 4, 2, b"ab")
    assert known.record(1) == Compiled(1, 4, 2, b"ab", ())


def test_who_suspects_is_a_union_of_which_the_smallest_8_are_kept() -> None:
    known = MemberTable()
    for suspects in ([9, 3], [5], [20, 21, 22, 23], [8, 7, 6], [3]):
        known.put(1, 0, 1, b"", suspects)
    record = known.record(1)
    assert record is not None
    assert record.suspects == (3, 5, 6, 7, 8, 9, 20, 21)
    assert known.put(1, 0, 1, b"", [30]) is False


@pytest.mark.parametrize(
    ("status", "stays"), [(0, True), (1, True), (2, True), (3, True), (4, False), (5, False)]
)
def test_a_snapshot_ends_all_talk_about_a_member_that_has_ended(status: int, stays: bool) -> None:
    known = table(State(records={4: Record(7), 12: Record(0)}))
    known.merge(listed((4, status)).encode())
    assert (known.record(4) is not None) == stays
    assert known.newcomers() == [12]


def test_what_has_ended_never_comes_back() -> None:
    known = table(listed((4, 5), (5, 1)))
    for incarnation in (0, 1, 0xFFFF_FFFF):
        assert known.put(4, incarnation, 1) is False
        assert (
            known.merge(State(Snapshot(), {3: Record(incarnation)}).encode()) == []
        )  # was purged: absent and not newer
        assert known.merge(listed((3, 1), (4, 1), version=0).encode()) == []
    assert known.records() == []
    assert (known.status_of(3), known.status_of(4), known.status_of(5), known.status_of(10)) == (
        5,
        5,
        1,
        None,
    )


def test_an_older_snapshot_changes_nothing() -> None:
    known = table(listed((4, 1), (5, 2), version=7))
    before = known.encode()
    assert known.merge(listed((4, 5), version=6).encode()) == []
    assert known.put_snapshot(6, 9, [(4, 5)]) is False
    assert known.encode() == before


def test_the_records_can_be_taken_without_the_snapshot() -> None:
    known = table(listed((4, 1), version=7))
    assert known.merge(State(Snapshot(8, 9, ((4, 5),)), {}).encode(), snapshot=False) == []
    assert (known.version, known.status_of(4)) == (7, 1)


def test_a_snapshot_that_the_storage_disowns_can_be_replaced() -> None:
    known = table(listed((4, 5), version=10**9))
    known.replace_snapshot(7, 9, [(4, 1)])
    assert (known.version, known.status_of(4), known.listed) == (7, 1, [(4, 1)])


def test_some_records_can_be_encoded_with_the_snapshot_or_without() -> None:
    known = table(
        State(Snapshot(3, 5, ((4, 1), (5, 0))), {4: Record(1), 5: Record(2), 70: Record(3)})
    )
    assert State.decode(known.encode([5, 6, 5])) == State(
        Snapshot(3, 5, ((4, 1), (5, 0))), {5: Record(2)}
    )
    assert State.decode(known.encode([70], snapshot=False)) == State(Snapshot(), {70: Record(3)})
    assert known.in_buckets(1 << 4 | 1 << 6) == [4, 70]


# --- what is refused ------------------------------------------------------------------------------


GOOD = [3, 9, [4, 1, 5, 2], [[4, 0, 1, b"m", [1, 2]], [10, 0, 1, b"", []]]]


def test_the_good_state_is_taken() -> None:
    known = MemberTable()
    assert known.merge(msgpack.packb(GOOD)) == [4, 10]


@pytest.mark.parametrize(
    "bad",
    [
        pytest.param(msgpack.packb(GOOD)[:-1], id="cut short"),
        pytest.param(msgpack.packb(GOOD) + b"\0", id="bytes after it"),
        pytest.param(b"", id="empty"),
        pytest.param(msgpack.packb({}), id="no array"),
        pytest.param(msgpack.packb([3, 9, []]), id="3 fields"),
        pytest.param(msgpack.packb([-1, 9, [], []]), id="negative"),
        pytest.param(msgpack.packb([1 << 63, 9, [], []]), id="version too large"),
        pytest.param(msgpack.packb([3, 9, [4], []]), id="half a pair"),
        pytest.param(msgpack.packb([3, 9, [5, 1, 4, 1], []]), id="not in order"),
        pytest.param(msgpack.packb([3, 9, [4, 1, 4, 1], []]), id="twice"),
        pytest.param(msgpack.packb([3, 9, [10, 1], []]), id="newer than itself"),
        pytest.param(msgpack.packb([3, 9, [0, 1], []]), id="generation 0"),
        pytest.param(msgpack.packb([3, 9, [4, 6], []]), id="no such status"),
        pytest.param(
            msgpack.packb([0, 0, [], [[4, 0, 3, b"", []]]]),
            id="a member that calls itself condemned",
        ),
        pytest.param(
            msgpack.packb([0, 0, [], [[4, 0, 5, b"", []]]]), id="a member that calls itself dead"
        ),
        pytest.param(
            msgpack.packb([0, 0, [], [[4, 1 << 32, 1, b"", []]]]), id="incarnation too large"
        ),
        pytest.param(
            msgpack.packb([0, 0, [], [[4, 0, 1, b"m" * 129, []]]]), id="metadata too long"
        ),
        pytest.param(msgpack.packb([0, 0, [], [[4, 0, 1, None, []]]]), id="metadata nil"),
        pytest.param(
            msgpack.packb([0, 0, [], [[4, 0, 1, b"", [2, 1]]]]), id="suspects not in order"
        ),
        pytest.param(
            msgpack.packb([0, 0, [], [[4, 0, 1, b"", list(range(1, 10))]]]), id="9 suspects"
        ),
        pytest.param(
            msgpack.packb([0, 0, [], [[4, 0, 1, b"", []], [4, 1, 1, b"", []]]]), id="record twice"
        ),
        pytest.param(msgpack.packb([0, 0, [], [[0, 0, 1, b"", []]]]), id="record of 0"),
        pytest.param(msgpack.packb([0, 0, [], [[4, 0, 1, b""]]]), id="record of 4"),
        pytest.param(b"\x94\x00\x00\xdd\xff\xff\xff\xff\x90", id="claims 4 billion members"),
        pytest.param(b"\x94\x00\x00\x90\xdd\xff\xff\xff\xff", id="claims 4 billion records"),
        pytest.param(b"\x94" + b"\0" * (MAX_STATE + 1), id="too many bytes"),
    ],
)
def test_what_is_not_well_formed_is_refused_whole(bad: bytes) -> None:
    known = table(State(Snapshot(2, 9, ((4, 1),)), {4: Record(3)}))
    before = known.encode()
    with pytest.raises(ProtocolError):
        known.merge(bad)
    assert known.encode() == before


@given(st.binary(max_size=200))
def test_random_bytes_are_refused_or_merged_but_never_crash(data: bytes) -> None:
    known = MemberTable()
    try:
        known.merge(data)
    except ProtocolError:
        assert known.encode() == MemberTable().encode()


@settings(max_examples=examples(300), deadline=None, database=None)
@given(states(1), st.data())
def test_a_state_with_changed_bytes_is_refused_or_merged_but_never_crashes(
    drawn: list[State], data: st.DataObject
) -> None:
    encoded = bytearray(drawn[0].encode())
    for _ in range(data.draw(st.integers(1, 4))):
        encoded[data.draw(st.integers(0, len(encoded) - 1))] = data.draw(st.integers(0, 255))
    with contextlib.suppress(ProtocolError):
        MemberTable().merge(bytes(encoded))


def test_more_records_than_a_table_holds_are_refused_whole() -> None:
    full = MAX_MEMBERS
    known = table(
        State(
            Snapshot(1, full, tuple((g, 1) for g in range(1, full + 1))),
            {g: Record(0) for g in range(1, full + 1)},
        )
    )
    assert len(known) == MAX_MEMBERS
    before = known.encode()
    with pytest.raises(ProtocolError, match="1025 records"):
        known.put(full + 1, 0, 1)
    assert known.encode() == before


def test_more_newcomers_than_64_are_refused_whole_until_a_snapshot_knows_them() -> None:
    known = table(listed(version=1, high=9))
    for generation in range(10, 10 + MAX_NEWCOMERS):
        known.put(generation, 0, 1)
    with pytest.raises(ProtocolError, match="65 records of members newer"):
        known.put(9999, 0, 1)
    known.put_snapshot(2, 10, [(10, 1)])
    assert known.put(9999, 0, 1) is True


def test_a_record_of_ones_own_is_held_to_the_same_bounds() -> None:
    known = MemberTable()
    for bad in ((0, 0, 1, b""), (1, 0, 3, b""), (1, 0, 1, b"m" * 129), (1 << 63, 0, 1, b"")):
        with pytest.raises(ProtocolError):
            known.put(*bad)
    with pytest.raises(ProtocolError):
        known.put(1, 0, 1, b"", [0])
    for bad_snapshot in ([(4, 1)], [(2, 6)], [(2, 200)]):
        with pytest.raises(ProtocolError):
            known.put_snapshot(1, 3, bad_snapshot)
    assert (len(known), known.version) == (0, 0)


def test_a_full_state_of_1024_members_fits_into_its_bound() -> None:
    rng = random.Random(1)
    members = tuple((g, 1) for g in range(10**12, 10**12 + MAX_MEMBERS))
    worst = {
        g: Record(
            0xFFFF_FFFF, 2, bytes(128), tuple(sorted(rng.sample(range(10**12, 2 * 10**12), 8)))
        )
        for g, _ in members
    }
    known = table(State(Snapshot(1, 2 * 10**12, members), worst))
    assert len(known.encode()) <= MAX_STATE


def test_the_statuses_that_the_table_knows_are_those_of_the_contract() -> None:
    assert {name: MemberStatus[name].value for name in STATUSES} == STATUSES
