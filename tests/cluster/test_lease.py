"""The arithmetic of the lease: tables for each rule, and the property that joins them (P5)."""

from __future__ import annotations

import heapq
import itertools
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec.structs import force_setattr, replace

from rio.cluster.config import ClusterConfig
from rio.cluster.lease import MAX_ENDED_MEMBERS, Duties, Lease, Observer, watch
from rio.contracts.membership import Member, MembershipSnapshot, MemberStatus

STRICT = ClusterConfig.strict()
ME = 1


def members(*rows: tuple[int, int] | tuple[int, int, MemberStatus]) -> MembershipSnapshot:
    """A snapshot of ``(generation, lease counter[, status])``."""
    made = [
        Member(row[0], f"host:{row[0]}", row[2] if len(row) == 3 else MemberStatus.ACTIVE, row[1])
        for row in rows
    ]
    return MembershipSnapshot(1, max(member.generation for member in made), tuple(made))


def observe(observer: Observer, *reads: tuple[float, MembershipSnapshot]) -> list[tuple[int, ...]]:
    """Feed reads that take no time; the generations to evict after each."""
    return [
        tuple(member.generation for member in observer.step(snapshot, at, at).evict)
        for at, snapshot in reads
    ]


def every_second(
    until: int, snapshot_at: Callable[[int], MembershipSnapshot]
) -> list[tuple[float, MembershipSnapshot]]:
    return [(float(second), snapshot_at(second)) for second in range(until)]


# --- the holder -----------------------------------------------------------------------------------


def test_a_node_without_a_renewal_admits_nothing() -> None:
    assert not Lease(5.0).admits(-1e9)


@pytest.mark.parametrize(
    ("renewals", "until"),
    [([0.0], 5.0), ([0.0, 1.0], 6.0), ([1.0, 0.0], 6.0), ([3.0, 3.0], 8.0)],
    ids=["one", "two", "answered in the wrong order", "twice the same"],
)
def test_a_lease_runs_from_the_latest_sending_that_succeeded(
    renewals: list[float], until: float
) -> None:
    lease = Lease(5.0)
    for sent in renewals:
        lease.renewed(sent)
    assert lease.until == until
    assert lease.admits(until - 0.001)
    assert not lease.admits(until)


def test_an_expired_lease_comes_back_with_the_next_renewal() -> None:
    lease = Lease(5.0)
    lease.renewed(0.0)
    assert not lease.admits(20.0)
    assert lease.renewed(20.5) == 25.5
    assert lease.admits(21.0)


def test_a_fenced_lease_ignores_answers_to_what_was_sent_before_the_fence() -> None:
    lease = Lease(5.0)
    lease.renewed(0.0)
    lease.fence(2.0)
    assert lease.until == -math.inf
    assert lease.renewed(1.5) == lease.renewed(2.0) == -math.inf
    assert lease.renewed(2.5) == 7.5


def test_a_lease_that_nobody_watches_never_ends() -> None:
    assert Lease(math.inf).renewed(3.0) == math.inf


# --- the observer ---------------------------------------------------------------------------------


def test_a_counter_that_stands_still_for_lease_evict_is_reported_and_not_before() -> None:
    observer = Observer(ME, STRICT)
    found: list[Duties] = [
        observer.step(members((ME, second), (2, 7)), sent=float(second), received=second + 0.25)
        for second in range(9)
    ]
    assert [len(duties.evict) for duties in found] == [
        0,
        0,
        0,
        0,
        0,
        0,
        0,
        1,
        1,
    ]  # 7.0 - 0.25 is the first that reaches 6.5
    assert found[7].evict[0].lease_counter == 7


def test_a_counter_that_moves_starts_its_timer_anew() -> None:
    reads = every_second(20, lambda second: members((ME, second), (2, 0 if second < 6 else 1)))
    evictions = observe(Observer(ME, STRICT), *reads)
    assert [second for second, evicted in enumerate(evictions) if evicted] == [
        13,
        14,
        15,
        16,
        17,
        18,
        19,
    ]


@pytest.mark.parametrize(
    "status",
    [MemberStatus.JOINING, MemberStatus.ACTIVE, MemberStatus.DRAINING, MemberStatus.CONDEMNED],
)
def test_silence_ends_a_member_of_any_status_that_is_not_final(status: MemberStatus) -> None:
    assert observe(
        Observer(ME, STRICT), *every_second(8, lambda second: members((ME, second), (2, 0, status)))
    )[-1] == (2,)


@pytest.mark.parametrize("status", [MemberStatus.LEFT, MemberStatus.DEAD])
def test_a_member_that_has_ended_is_not_evicted_again(status: MemberStatus) -> None:
    assert (
        observe(
            Observer(ME, STRICT),
            *every_second(20, lambda second: members((ME, second), (2, 0, status))),
        )[-1]
        == ()
    )


def test_reads_too_far_apart_restart_every_timer() -> None:
    observer = Observer(ME, STRICT)
    evictions = observe(
        observer,
        *(
            (at, members((ME, int(at)), (2, 0)))
            for at in (0.0, 1.0, 2.0, 3.0, 5.6, 6.6, 7.6, 8.6, 9.6, 10.6)
        ),
    )
    assert not any(evictions)
    assert observe(
        observer, (11.6, members((ME, 11), (2, 0))), (12.6, members((ME, 12), (2, 0)))
    ) == [(), (2,)]  # 5.6 + 6.5 = 12.1


def test_reads_just_close_enough_keep_the_timers() -> None:
    reads = [(at, members((ME, int(at)), (2, 0))) for at in (0.0, 2.5, 5.0, 7.5)]
    assert observe(Observer(ME, STRICT), *reads) == [(), (), (), (2,)]


def test_an_observer_whose_own_renewals_do_not_arrive_evicts_nobody() -> None:
    frozen = every_second(20, lambda second: members((ME, 0), (2, 0), (3, 0)))
    assert not any(observe(Observer(ME, STRICT), *frozen))


def test_after_a_storage_that_could_not_be_written_each_member_has_its_whole_window() -> None:
    def at(second: int) -> MembershipSnapshot:
        return members(
            (ME, max(0, second - 20)), (2, 0)
        )  # nothing moves for 20 s, except the observer at last

    evictions = observe(Observer(ME, STRICT), *every_second(40, at))
    assert (
        next(second for second, evicted in enumerate(evictions) if evicted) == 27
    )  # restarted last at 20


def test_a_member_that_was_purged_is_forgotten() -> None:
    observer = Observer(ME, STRICT)
    observe(observer, (0.0, members((ME, 0), (2, 0))), (1.0, members((ME, 1))))
    assert observer._seen.keys() == {ME}


@pytest.mark.parametrize(
    ("generation", "limit", "watched"),
    [
        (3, None, (5, 8, 1, 2)),
        (3, 2, (5, 8)),
        (8, 2, (1, 2)),
        (8, 10, (1, 2, 3, 5)),
        (4, 1, (5,)),
    ],
)
def test_a_member_watches_the_next_ones_on_the_ring(
    generation: int, limit: int | None, watched: tuple[int, ...]
) -> None:
    snapshot = members(
        (1, 0), (2, 0), (3, 0), (4, 0, MemberStatus.DEAD), (5, 0), (7, 0, MemberStatus.LEFT), (8, 0)
    )
    assert tuple(member.generation for member in watch(snapshot, generation, limit)) == watched


def test_with_a_limit_every_member_is_watched_by_as_many() -> None:
    snapshot = members(*((generation, 0) for generation in range(1, 11)))
    watched = [
        member.generation
        for generation in range(1, 11)
        for member in watch(snapshot, generation, 3)
    ]
    assert all(watched.count(generation) == 3 for generation in range(1, 11))


def test_a_member_that_ended_is_purged_once_this_observer_has_known_it_long_enough() -> None:
    observer = Observer(ME, replace(STRICT, drop_inactive_after=10.0))
    purges = [
        observer.step(members((ME, second), (2, 0, MemberStatus.DEAD)), second, second).purge
        for second in range(12)
    ]
    assert purges == [()] * 10 + [(2,)] * 2


def test_only_the_lowest_active_member_purges() -> None:
    for other, purge in ((ME - 1, ()), (ME + 1, (9,))):
        observer = Observer(ME, replace(STRICT, drop_inactive_after=1.0))
        snapshot = members((ME, 0), (other, 0), (9, 0, MemberStatus.LEFT))
        observer.step(snapshot, 0.0, 0.0)
        assert observer.step(snapshot, 1.0, 1.0).purge == purge


def test_only_the_newest_that_ended_are_kept_whatever_their_age() -> None:
    ended = [
        (generation, 0, MemberStatus.DEAD) for generation in range(2, 2 + MAX_ENDED_MEMBERS + 3)
    ]
    assert sorted(Observer(ME, STRICT).step(members((ME, 0), *ended), 0.0, 0.0).purge) == [2, 3, 4]


# --- P5: the end of admission comes before the earliest eviction ----------------------------------


@dataclass(frozen=True)
class Renewal:
    """One renewal in real seconds.

    It says how long after the last renewal this one is sent, how late it is applied, and how late
    its answer is seen (``None``: never).
    """

    after: float
    request: float
    reply: float | None


@dataclass(frozen=True)
class Read:
    """One read of the observer in real seconds.

    It says the pause before it, its way there and back, and how late an eviction arrives.
    """

    after: float
    request: float
    reply: float
    act: float


@dataclass(frozen=True)
class Story:
    """Two nodes with clocks of different rates, and delays.

    The delays stand for slow networks and for processes that are frozen.
    """

    holder_rate: float
    observer_rate: float
    renewals: tuple[Renewal, ...]
    reads: tuple[Read, ...]


delays = st.one_of(st.floats(0.0, 0.05), st.floats(0.0, 3.0), st.floats(0.0, 30.0))
rates = st.one_of(st.sampled_from((0.9, 1.0, 1.1)), st.floats(0.9, 1.1))
stories = st.builds(
    Story,
    rates,
    rates,
    st.lists(st.builds(Renewal, delays, delays, st.none() | delays), min_size=1, max_size=5).map(
        tuple
    ),
    st.lists(st.builds(Read, delays, delays, delays, delays), max_size=5).map(tuple),
)


class Model:
    """One holder, one observer and the storage between them, in real time."""

    def __init__(
        self,
        story: Story,
        config: ClusterConfig = STRICT,
        *,
        observer: type[Observer] = Observer,
        lease_from_reply: bool = False,
        compare_counter: bool = True,
    ) -> None:
        self.story, self.config = story, config
        self.lease_from_reply, self.compare_counter = lease_from_reply, compare_counter
        self.lease = Lease(config.lease_local)
        self.observer = observer(ME, config)
        self.counter = self.own_counter = 0
        self.time = 0.0
        self.evicted_at: float | None = None
        self._events: list[tuple[float, int, Callable[[], None]]] = []
        self._order = itertools.count()

    def run(self) -> Model:
        at = 0.0
        for renewal in self.story.renewals:
            at += renewal.after
            self._at(at, partial(self._renew, renewal))
        tail = (
            Read(self.config.poll_interval / self.story.observer_rate, 0.0, 0.0, 0.0)
            for _ in range(200)
        )
        self._read_next(iter((*self.story.reads, *tail)))
        while self._events:
            self.time, _, event = heapq.heappop(self._events)
            event()
        return self

    @property
    def admission_end(self) -> float:
        """The real time at which the holder admits for the last time."""
        return self.lease.until / self.story.holder_rate

    @property
    def single(self) -> bool:
        assert self.evicted_at is not None
        return self.admission_end < self.evicted_at

    def _at(self, time: float, event: Callable[[], None]) -> None:
        heapq.heappush(self._events, (time, next(self._order), event))

    def _renew(self, renewal: Renewal) -> None:
        sent = self.time * self.story.holder_rate

        def applied() -> None:
            if self.evicted_at is None:
                self.counter += 1
                if renewal.reply is not None:
                    self._at(self.time + renewal.reply, answered)

        def answered() -> None:
            self.lease.renewed(
                self.time * self.story.holder_rate if self.lease_from_reply else sent
            )

        self._at(self.time + renewal.request, applied)

    def _read_next(self, reads: Iterator[Read]) -> None:
        read = next(reads, None)
        if read is None or self.evicted_at is not None:
            return

        def send() -> None:
            sent = self.time * self.story.observer_rate
            self._at(self.time + read.request, lambda: look(sent))

        def look(sent: float) -> None:
            self.own_counter += 1
            snapshot = members((ME, self.own_counter), (2, self.counter))
            self._at(self.time + read.reply, lambda: judge(snapshot, sent))

        def judge(snapshot: MembershipSnapshot, sent: float) -> None:
            for member in self.observer.step(
                snapshot, sent, self.time * self.story.observer_rate
            ).evict:
                self._at(self.time + read.act, partial(evict, member))
            self._at(self.time + read.act, lambda: self._read_next(reads))

        def evict(member: Member) -> None:
            if self.evicted_at is None and (
                not self.compare_counter or self.counter == member.lease_counter
            ):
                self.evicted_at = self.time

        self._at(self.time + read.after, send)


@settings(deadline=None)
@given(stories)
def test_admission_ends_before_the_earliest_eviction_whatever_is_late_frozen_or_drifts(
    story: Story,
) -> None:
    assert Model(story).run().single


def unsafe(lease_evict: float) -> ClusterConfig:
    """A configuration that the settings would refuse."""
    config = replace(STRICT)
    force_setattr(config, "lease_evict", lease_evict)
    return config


class TimedFromTheSending(Observer):
    """An observer that takes a counter to be as old as the question after it."""

    def step(self, snapshot: MembershipSnapshot, sent: float, received: float) -> Duties:
        return super().step(snapshot, sent, sent)


def reads_each_second(**last: float) -> tuple[Read, ...]:
    return (
        Read(0.0, 0.0, 0.0, 0.0),
        *[Read(1.0, 0.0, 0.0, 0.0)] * 6,
        Read(1.0, 0.0, 0.0, last.get("act", 0.0)),
    )


SLOW_ANSWER = Story(1.0, 1.0, (Renewal(0.0, 0.0, 6.0),), ())
RENEWED_BEFORE_THE_EVICTION_ARRIVES = Story(
    1.0, 1.0, (Renewal(0.0, 0.0, 0.0), Renewal(7.5, 0.0, 0.0)), reads_each_second(act=1.0)
)
CLOCKS_APART = Story(0.9, 1.1, (Renewal(0.0, 0.0, 0.0),), (Read(0.01, 0.0, 0.0, 0.0),))
SLOW_READ = Story(0.9, 1.1, (Renewal(1.25, 0.0, 0.0),), (Read(0.0, 1.3, 0.0, 0.0),))


@pytest.mark.parametrize(
    ("story", "broken"),
    [
        (SLOW_ANSWER, {"lease_from_reply": True}),
        (RENEWED_BEFORE_THE_EVICTION_ARRIVES, {"compare_counter": False}),
        (CLOCKS_APART, {"config": unsafe(lease_evict=5.0)}),
        (CLOCKS_APART, {"config": unsafe(lease_evict=5.9)}),
        (SLOW_READ, {"observer": TimedFromTheSending}),
    ],
    ids=[
        "lease from the reply",
        "eviction without the counter",
        "eviction as early as the lease",
        "ratio below the tolerance",
        "timed from the sending",
    ],
)
def test_each_rule_is_needed(story: Story, broken: dict[str, Any]) -> None:
    assert Model(story).run().single
    assert not Model(story, **broken).run().single


def test_an_unknown_status_is_neither_active_nor_terminal() -> None:
    newer = MemberStatus(-7)
    assert (newer.name, newer.value) == ("STATUS_-7", -7)
    assert not newer.terminal
    assert newer < MemberStatus.LEFT
    assert MembershipSnapshot(1, 1, (Member(1, "a:1", newer),)).active == ()
