"""The settings of a cluster. Every node of one cluster must use the same ones: the lease of one is timed by the others."""

from __future__ import annotations

import math
from typing import Self

import msgspec

from rio.errors import ConfigurationError

CLOCK_RATE_TOLERANCE = 0.1
"""How much faster or slower than real time a clock may run before two nodes could admit calls for one object: 10 %."""

MIN_EVICT_RATIO = (1 + CLOCK_RATE_TOLERANCE) / (1 - CLOCK_RATE_TOLERANCE)
"""``lease_evict / lease_local`` at the least, 1.222: a lease timed by the slowest clock still ends before the fastest observer evicts."""

EVICT_RATIO = 1.3
"""``lease_evict / lease_local`` of the presets: :data:`MIN_EVICT_RATIO` and some air."""

MIN_ATTEMPTS = 3
"""Renewals that must fit into ``lease_local``: one may be lost and one late without a pause."""

DAY = 86_400.0


class ClusterConfig(msgspec.Struct, frozen=True, kw_only=True):
    """The settings of a :class:`rio.cluster.peer_to_peer.PeerToPeerClusterProvider`. All durations are seconds.

    The defaults are :meth:`strict`. With :meth:`from_rio_rs` the settings of rio-rs are translated; each field states its formula.

    :raises ConfigurationError: the values contradict each other; the text names the field and the value that it needs.
    """

    renew_interval: float = 1.0
    """How often a node renews its lease. From rio-rs: ``min(interval_secs, lease_local / 3)``."""

    lease_local: float = 5.0
    """How long a node may admit calls after it *sent* a renewal that succeeded. At least ``3 * renew_interval`` and ``3 * poll_interval``.

    From rio-rs: ``interval_secs * num_failures_threshold``, the time in which that many checks fail in a row.
    """

    lease_evict: float = 6.5
    """How long an observer must see a lease counter unchanged, by its own clock, before it declares the member dead.

    At least ``1.1 / 0.9 * lease_local``, which holds for clocks that are up to 10 % too fast or too slow.
    From rio-rs: ``1.3 * lease_local``.
    """

    poll_interval: float = 1.0
    """How often a node reads the membership. From rio-rs: ``min(interval_secs, lease_local / 3)``."""

    storage_timeout: float = 2.0
    """How long one call of the storage may take. At most ``lease_local / 2``, so that a stuck renewal leaves the time for another.

    From rio-rs: ``min(2, lease_local / 2)``.
    """

    limit_monitored_members: int | None = None
    """How many members a node may evict: the next ones after itself on the ring of generations; ``None`` for all. From rio-rs: the same.

    It bounds the traffic when a node dies (that many nodes try to evict it). Where a member and all who watch it die together, those are
    evicted first and then the member, each at most ``poll_interval`` after the one before.
    """

    drop_inactive_after: float = DAY
    """How long a member that left or died stays in the storage. Without effect on safety: a member that is absent is dead.

    However large, only the newest 64 are kept. From rio-rs: ``drop_inactive_after_secs``, where ``None`` is infinite.
    """

    def __post_init__(self) -> None:
        for name in ("renew_interval", "lease_local", "lease_evict", "poll_interval", "storage_timeout"):
            _check_duration(name, getattr(self, name))
        if not self.drop_inactive_after > 0:
            raise ConfigurationError(f"drop_inactive_after must be more than 0 seconds, got {self.drop_inactive_after!r}")
        _check_count("limit_monitored_members", self.limit_monitored_members)
        _check_at_least("lease_local", self.lease_local, f"{MIN_ATTEMPTS} * renew_interval", MIN_ATTEMPTS * self.renew_interval)
        _check_at_least("lease_local", self.lease_local, f"{MIN_ATTEMPTS} * poll_interval", MIN_ATTEMPTS * self.poll_interval)
        _check_at_least("lease_local", self.lease_local, "2 * storage_timeout", 2 * self.storage_timeout)
        _check_at_least("lease_evict", self.lease_evict, f"{MIN_EVICT_RATIO:.3f} * lease_local", MIN_EVICT_RATIO * self.lease_local)

    @property
    def failover_bound(self) -> float:
        """Seconds from the SIGKILL of a node to its eviction at the latest: ``lease_evict + 3 * poll_interval``.

        The last counter is seen up to one poll after the kill, the lease is timed from there, the poll that finds it run out comes up to
        one poll later; the third poll is the allowance for four storage calls (the last renewal, the two reads, the eviction), so it holds
        while each takes at most ``poll_interval / 4``. A slower storage adds what it takes longer.
        """
        return self.lease_evict + 3 * self.poll_interval

    @classmethod
    def strict(cls) -> Self:
        """For production: a pause of 5 s (a full garbage collection, a storage restart) stops nobody. Failover within 9.5 s."""
        return cls()

    @classmethod
    def fast(cls) -> Self:
        """For quiet machines and a storage that is near: half of everything in :meth:`strict`. Failover within 4.75 s."""
        return cls(renew_interval=0.5, lease_local=2.5, lease_evict=3.25, poll_interval=0.5, storage_timeout=1.0)

    @classmethod
    def local(cls) -> Self:
        """For several nodes on one host, in development and in tests. Failover within 2.85 s."""
        return cls(renew_interval=0.3, lease_local=1.5, lease_evict=1.95, poll_interval=0.3, storage_timeout=0.6)

    @classmethod
    def named(cls, name: str) -> Self:
        """The preset called ``strict``, ``fast`` or ``local``.

        :raises ConfigurationError: there is no such preset.
        """
        presets = {"strict": cls.strict, "fast": cls.fast, "local": cls.local}
        if name not in presets:
            raise ConfigurationError(f"there is no preset {name!r}: choose one of {', '.join(presets)}")
        return presets[name]()

    @classmethod
    def from_rio_rs(
        cls,
        *,
        interval_secs: float = 5.0,
        num_failures_threshold: int = 3,
        interval_secs_threshold: float = 60.0,
        limit_monitored_members: int | None = None,
        drop_inactive_after_secs: float | None = None,
    ) -> Self:
        """The settings of rio-rs' ``PeerToPeerClusterConfig``, in the units of rio-rs; the defaults are rio-rs' own.

        A member is declared dead when ``num_failures_threshold`` checks, ``interval_secs`` apart, have failed within
        ``interval_secs_threshold``. Here the checks that fail are those in a row in which its lease counter stands still, so they take
        ``interval_secs * num_failures_threshold``, and the window has to be at least as long: with a shorter one rio-rs would never find
        a member broken, and this refuses. The other formulas are at the fields.

        :raises ConfigurationError: a value is not positive, or the window is shorter than the failures take.
        """
        _check_duration("interval_secs", interval_secs)
        _check_duration("interval_secs_threshold", interval_secs_threshold)
        _check_count("num_failures_threshold", num_failures_threshold)
        lease_local = interval_secs * num_failures_threshold
        _check_at_least("interval_secs_threshold", interval_secs_threshold, "interval_secs * num_failures_threshold", lease_local)
        attempt_interval = min(interval_secs, lease_local / MIN_ATTEMPTS)
        return cls(
            renew_interval=attempt_interval,
            lease_local=lease_local,
            lease_evict=EVICT_RATIO * lease_local,
            poll_interval=attempt_interval,
            storage_timeout=min(2.0, lease_local / 2),
            limit_monitored_members=limit_monitored_members,
            drop_inactive_after=math.inf if drop_inactive_after_secs is None else drop_inactive_after_secs,
        )


def _check_duration(name: str, value: float) -> None:
    if not 0 < value < math.inf:
        raise ConfigurationError(f"{name} must be a finite number of seconds above 0, got {value!r}")


def _check_count(name: str, value: int | None) -> None:
    if value is not None and value < 1:
        raise ConfigurationError(f"{name} must be at least 1, got {value!r}")


def _check_at_least(name: str, value: float, formula: str, least: float) -> None:
    if value < least and not math.isclose(value, least):
        raise ConfigurationError(f"{name} must be at least {formula} = {least:g} seconds, got {value:g}")
