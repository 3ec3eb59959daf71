"""The lease of a member, and how the others time it: plain state machines, without a clock, a
storage or a task of their own.

A member holds a :class:`Lease`; the others time its silence with an :class:`Observer`. A node has
always stopped admitting before another one may evict it, for this reason: ``lease_local`` runs from
the moment at which the node *sent* its last renewal, and ``lease_evict`` from the moment at which
the observer *received* the read that showed it. The storage applied the renewal in between. And
``lease_evict`` is longer than ``lease_local`` even if the rates of the two clocks are 10 % off in
opposite directions. An eviction names the counter that it judged, so an eviction that comes late
fails.
"""

from __future__ import annotations

import math

import msgspec

from rio.cluster.config import ClusterConfig
from rio.contracts.membership import Member, MembershipSnapshot

GAP_POLLS = 2.5
"""An observer whose reads were further apart than this many ``poll_interval`` has not observed, and
begins anew.
"""

MAX_ENDED_MEMBERS = 64
"""Members that left or died and are kept in the storage, at most."""


class Lease:
    """Until when a node may admit calls, by its own clock.

    ``duration``: ``lease_local`` in seconds, or infinity where nobody watches.
    """

    def __init__(self, duration: float) -> None:
        self._duration = duration
        self._fenced_at = -math.inf
        self.until = -math.inf
        """``max(old, sent + lease_local)`` over the renewals that succeeded; ``-inf`` before the
        first and after a fence.
        """

    def change(self, duration: float) -> None:
        """Let the renewals that succeed from now on last for another time."""
        self._duration = duration

    def renewed(self, sent: float) -> float:
        """Count a renewal that succeeded and was *sent* at ``sent``, whenever its answer came;
        return :attr:`until`.

        A renewal that was sent before the node was fenced says nothing about now, and is ignored.
        """
        if sent > self._fenced_at:
            self.until = max(self.until, sent + self._duration)
        return self.until

    def fence(self, now: float) -> None:
        """End the lease at once. Only a renewal that is sent after ``now`` brings it back."""
        self._fenced_at = max(self._fenced_at, now)
        self.until = -math.inf

    def admits(self, now: float) -> bool:
        """Whether a turn may start at ``now``.

        When renewals fail the node pauses by itself, and goes on with the first that succeeds.
        """
        return now < self.until


class Duties(msgspec.Struct, frozen=True):
    """What an observer has to do after a read. Each read repeats it, until the storage shows that
    it is done.
    """

    evict: tuple[Member, ...]
    """Members to declare dead, as they were read and in ring order: by compare-and-set on their
    status *and* their lease counter.
    """
    purge: tuple[int, ...]
    """The generations of members that ended long enough ago to be forgotten."""


class _Seen(msgspec.Struct, frozen=True):
    counter: int
    since: float
    """When the read that first showed this counter was received."""


class Observer:
    """What the member ``generation`` knows about the others from its own reads of the membership,
    by its own clock.

    Two rules keep a sick observer from evicting healthy members. All its timers restart if its own
    reads were more than ``2.5 * poll_interval`` apart, or if its own counter stood still for
    ``lease_local``, as with a storage that can be read but not written.
    """

    def __init__(self, generation: int, config: ClusterConfig) -> None:
        self._generation = generation
        self._config = config
        self._received = -math.inf
        self._seen: dict[int, _Seen] = {}
        self._ended: dict[int, float] = {}

    def follow(self, config: ClusterConfig) -> None:
        """Judge by other settings from now on."""
        self._config = config

    def step(self, snapshot: MembershipSnapshot, sent: float, received: float) -> Duties:
        """Take in one successful read, asked for at ``sent`` and answered at ``received`` (seconds
        of the observer's clock).
        """
        if received - self._received > GAP_POLLS * self._config.poll_interval:
            self._seen = {}
        self._received = received
        self._time_counters(snapshot, received)
        self._time_ended(snapshot, received)
        if self._silence(self._generation, sent) >= self._config.lease_local:
            self._restart(received)
        return Duties(self._to_evict(snapshot, sent), self._to_purge(snapshot, received))

    def _time_counters(self, snapshot: MembershipSnapshot, received: float) -> None:
        seen = {}
        for member in snapshot.members:
            if not member.status.terminal:
                before = self._seen.get(member.generation)
                unchanged = before is not None and before.counter == member.lease_counter
                seen[member.generation] = (
                    before if before and unchanged else _Seen(member.lease_counter, received)
                )
        self._seen = seen

    def _time_ended(self, snapshot: MembershipSnapshot, received: float) -> None:
        ended = (member.generation for member in snapshot.members if member.status.terminal)
        self._ended = {generation: self._ended.get(generation, received) for generation in ended}

    def _silence(self, generation: int, sent: float) -> float:
        """For how long the counter has been the same, at least: from the receipt of the first read
        to the sending of the last.
        """
        seen = self._seen.get(generation)
        return -math.inf if seen is None else sent - seen.since

    def _restart(self, received: float) -> None:
        for generation, seen in self._seen.items():
            if generation != self._generation:
                self._seen[generation] = _Seen(seen.counter, received)

    def _to_evict(self, snapshot: MembershipSnapshot, sent: float) -> tuple[Member, ...]:
        watched = watch(snapshot, self._generation, self._config.limit_monitored_members)
        return tuple(
            member
            for member in watched
            if self._silence(member.generation, sent) >= self._config.lease_evict
        )

    def _to_purge(self, snapshot: MembershipSnapshot, received: float) -> tuple[int, ...]:
        if self._generation != min((member.generation for member in snapshot.active), default=None):
            return ()
        newest_first = sorted(self._ended, reverse=True)
        return tuple(
            generation
            for rank, generation in enumerate(newest_first)
            if rank >= MAX_ENDED_MEMBERS
            or received - self._ended[generation] >= self._config.drop_inactive_after
        )


class LiveMembers:
    """Which of the members that the storage calls active are alive: not those whose lease counter
    this node saw stand still.

    ``patience``: for how long, in seconds. A node whose reads were further apart has not looked,
    and begins anew.
    """

    def __init__(self, patience: float) -> None:
        self.patience = patience
        """Seconds of silence after which a member does not count as alive."""
        self._looked = -math.inf
        self._seen: dict[int, _Seen] = {}

    def read(self, snapshot: MembershipSnapshot, now: float) -> None:
        """Take in one read of the membership, whose answer came at ``now``."""
        before = self._seen if now - self._looked <= self.patience else {}
        self._looked, self._seen = now, {}
        for member in snapshot.active:
            known = before.get(member.generation)
            unchanged = known is not None and known.counter == member.lease_counter
            self._seen[member.generation] = (
                known if known and unchanged else _Seen(member.lease_counter, now)
            )

    def of(self, active: frozenset[int]) -> frozenset[int]:
        """Those of ``active`` that were alive at the last read. A node that cannot read does not
        take that for the others' silence.
        """
        silent = {
            generation
            for generation, seen in self._seen.items()
            if self._looked - seen.since >= self.patience
        }
        return active - silent


def watch(
    snapshot: MembershipSnapshot, generation: int, limit: int | None = None
) -> tuple[Member, ...]:
    """The members that ``generation`` may evict: the next ``limit`` after itself on the ring of
    generations that have not ended.

    With a limit each member is still watched by that many others; rio-rs watches the same first few
    from everywhere.
    """
    others = (
        member
        for member in snapshot.members
        if not member.status.terminal and member.generation != generation
    )
    ring = sorted(others, key=lambda member: (member.generation < generation, member.generation))
    return tuple(ring[:limit])
