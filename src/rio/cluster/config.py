"""The settings of a cluster.

All nodes of one cluster must share three of them, because each node's lease is timed by the others:
``lease_local``, ``lease_evict`` and ``poll_interval``. :mod:`rio.cluster.settings` sees to it.
"""

from __future__ import annotations

import math
from typing import Self

import msgspec

from rio.errors import ConfigurationError

CLOCK_RATE_TOLERANCE = 0.1
"""The error of a clock's rate that the lease allows for: 10 %. With a larger error two nodes could
admit calls for one object.
"""

MIN_EVICT_RATIO = (1 + CLOCK_RATE_TOLERANCE) / (1 - CLOCK_RATE_TOLERANCE)
"""The least ``lease_evict / lease_local``, 1.222: a lease that the slowest clock times still ends
before the fastest observer evicts.
"""

EVICT_RATIO = 1.3
"""``lease_evict / lease_local`` of the presets: :data:`MIN_EVICT_RATIO` with a margin."""

MIN_ATTEMPTS = 3
"""Renewals that must fit into ``lease_local``: the node does not pause if one of them is lost and
another one is late.
"""

PRESETS = ("strict", "fast", "local")
"""The class methods of :class:`ClusterConfig` that make its presets."""

DAY = 86_400.0
"""Seconds."""


class GossipConfig(msgspec.Struct, frozen=True, kw_only=True):
    """The settings of gossip and failure detection between the nodes. All durations are seconds;
    the defaults are memberlist's for a LAN.

    Gossip makes things quicker and never decides alone: the lease and the storage decide whether a
    member is dead. ``n`` below is the number of live members, ``health`` a node's opinion of its
    own senses, from 0 (good) to 8.

    :raises ConfigurationError: the values contradict each other.
    """

    probe_interval: float = 1.0
    """How often a node probes another one, the next of a shuffled list: every ``probe_interval * (1
    + health)``. In the presets: ``renew_interval``.
    """

    probe_timeout: float = 0.5
    """How long a node waits for the answer before it asks others to try: ``probe_timeout * (1 +
    health)``. At most half of ``probe_interval``.
    """

    indirect_probes: int = 3
    """How many others the node asks to try."""

    gossip_interval: float = 0.2
    """How often a node that has news passes it on. In the presets: ``min(0.2, probe_interval /
    5)``.
    """

    fan_out: int = 3
    """How many others a node passes its news on to, each time."""

    retransmit_multiplier: int = 4
    """Each piece of news is sent ``retransmit_multiplier * ceil(log10(n + 1))`` times by each node.
    """

    suspicion_multiplier: int = 4
    """A suspicion that two others share stands for ``suspicion_multiplier * max(1, log10(n)) *
    probe_interval`` before a node votes on it.
    """

    suspicion_max_multiplier: int = 6
    """A suspicion that nobody shares stands this many times as long. If one other node shares it,
    it stands for a time between the two, by a logarithm.
    """

    sync_interval: float = 30.0
    """How often a node compares all that it knows with another node, chosen at random."""

    vote_lifetime: float = 60.0
    """How long a vote counts. A voter renews its vote after a third of that."""

    join_timeout: float = 60.0
    """How long a new node tries to exchange probes with a majority of the others before its join
    fails.
    """

    def __post_init__(self) -> None:
        for name in (
            "probe_interval",
            "probe_timeout",
            "gossip_interval",
            "sync_interval",
            "vote_lifetime",
            "join_timeout",
        ):
            _check_duration(name, getattr(self, name))
        for name in (
            "fan_out",
            "retransmit_multiplier",
            "suspicion_multiplier",
            "suspicion_max_multiplier",
        ):
            _check_count(name, getattr(self, name))
        if self.indirect_probes < 0:
            raise ConfigurationError(
                f"indirect_probes must not be negative, got {self.indirect_probes!r}"
            )
        _check_at_least(
            "probe_interval", self.probe_interval, "2 * probe_timeout", 2 * self.probe_timeout
        )

    @classmethod
    def every(cls, probe_interval: float) -> Self:
        """The defaults, scaled to another ``probe_interval``. ``join_timeout`` stays the same.

        :raises ConfigurationError: ``probe_interval`` is not a number of seconds above 0.
        """
        return cls(
            probe_interval=probe_interval,
            probe_timeout=probe_interval / 2,
            gossip_interval=min(0.2, probe_interval / 5),
            sync_interval=30 * probe_interval,
            vote_lifetime=60 * probe_interval,
        )


class ClusterConfig(msgspec.Struct, frozen=True, kw_only=True):
    """The settings of a :class:`rio.PeerToPeerClusterProvider`. All durations are seconds.

    The defaults are :meth:`strict`. :meth:`from_rio_rs` translates the settings of rio-rs by the
    formulas that stand at the fields.

    :raises ConfigurationError: the values contradict each other; the text names the field and the
    value that it needs.
    """

    renew_interval: float = 1.0
    """How often a node renews its lease. From rio-rs: ``min(interval_secs, lease_local / 3)``."""

    lease_local: float = 5.0
    """How long a node may admit calls after it *sent* a renewal that succeeded. At least ``3 *
    renew_interval`` and ``3 * poll_interval``.

    From rio-rs: ``interval_secs * num_failures_threshold``, the time that so many failed checks in
    a row take.
    """

    lease_evict: float = 6.5
    """How long an observer must see a lease counter unchanged, by its own clock, before it declares
    the member dead. At least ``1.1 / 0.9 * lease_local``, which is enough for clocks that are up to
    10 % too fast or too slow.

    From rio-rs: ``1.3 * lease_local``.
    """

    poll_interval: float = 1.0
    """How often a node reads the membership.

    From rio-rs: ``min(interval_secs, lease_local / 3)``.
    """

    storage_timeout: float = 2.0
    """How long one call of the storage may take. At most ``lease_local / 2``, so that a renewal
    that hangs leaves the time for another one.

    From rio-rs: ``min(2, lease_local / 2)``.
    """

    limit_monitored_members: int | None = None
    """How many members a node may evict: the next ones after itself on the ring of generations;
    ``None`` for all. From rio-rs: the same.

    It bounds the traffic when a node dies, as so many nodes try to evict it. If a member dies
    together with all nodes that watch it, those are evicted first and then the member, each at most
    ``poll_interval`` after the one before.
    """

    drop_inactive_after: float = DAY
    """How long a member that left or died stays in the storage. It has no effect on safety: a
    member that is absent is dead. Only the newest 64 are kept, however long this is.

    From rio-rs: ``drop_inactive_after_secs``, where ``None`` is infinity.
    """

    gossip: GossipConfig | None = msgspec.field(default_factory=GossipConfig)
    """How the nodes talk to each other. With ``None`` they do not, and meet in the storage only.

    From rio-rs: ``GossipConfig.every(min(interval_secs, lease_local / 3))``.
    """

    require_durable_storage: bool = True
    """Whether a server refuses a storage that may forget what it has acknowledged, such as a Redis
    without an append-only file. With ``False`` the server only warns, as in the presets
    :meth:`fast` and :meth:`local`.

    From rio-rs: ``True``.
    """

    def __post_init__(self) -> None:
        for name in (
            "renew_interval",
            "lease_local",
            "lease_evict",
            "poll_interval",
            "storage_timeout",
        ):
            _check_duration(name, getattr(self, name))
        if not self.drop_inactive_after > 0:
            raise ConfigurationError(
                f"drop_inactive_after must be more than 0 seconds, got {self.drop_inactive_after!r}"
            )
        _check_count("limit_monitored_members", self.limit_monitored_members)
        _check_at_least(
            "lease_local",
            self.lease_local,
            f"{MIN_ATTEMPTS} * renew_interval",
            MIN_ATTEMPTS * self.renew_interval,
        )
        _check_at_least(
            "lease_local",
            self.lease_local,
            f"{MIN_ATTEMPTS} * poll_interval",
            MIN_ATTEMPTS * self.poll_interval,
        )
        _check_at_least(
            "lease_local", self.lease_local, "2 * storage_timeout", 2 * self.storage_timeout
        )
        _check_at_least(
            "lease_evict",
            self.lease_evict,
            f"{MIN_EVICT_RATIO:.3f} * lease_local",
            MIN_EVICT_RATIO * self.lease_local,
        )

    @property
    def failover_bound(self) -> float:
        """The most seconds from the SIGKILL of a node to its eviction: ``lease_evict + 3 *
        poll_interval``.

        An observer sees the last counter up to one poll after the kill, and times the lease from
        there. The poll that finds the lease run out comes up to one poll later. The third poll is
        the allowance for four storage calls (the last renewal, the two reads, the eviction), so the
        bound holds while each of them takes at most ``poll_interval / 4``. A slower storage adds
        the rest.
        """
        return self.lease_evict + 3 * self.poll_interval

    @classmethod
    def strict(cls) -> Self:
        """For production. A pause of less than 5 s, such as a full garbage collection or a restart
        of the storage, stops no node. Failover within 9.5 s.
        """
        return cls()

    @classmethod
    def fast(cls) -> Self:
        """For quiet machines and a storage that is near: half of each duration of :meth:`strict`.
        Failover within 4.75 s.
        """
        return cls(
            renew_interval=0.5,
            lease_local=2.5,
            lease_evict=3.25,
            poll_interval=0.5,
            storage_timeout=1.0,
            gossip=GossipConfig.every(0.5),
            require_durable_storage=False,
        )

    @classmethod
    def local(cls) -> Self:
        """For several nodes on one host, in development and in tests. Failover within 2.85 s."""
        return cls(
            renew_interval=0.3,
            lease_local=1.5,
            lease_evict=1.95,
            poll_interval=0.3,
            storage_timeout=0.6,
            gossip=GossipConfig.every(0.3),
            require_durable_storage=False,
        )

    @classmethod
    def named(cls, name: str) -> Self:
        """The preset called ``strict``, ``fast`` or ``local``.

        :raises ConfigurationError: there is no such preset.
        """
        if name not in PRESETS:
            raise ConfigurationError(
                f"there is no preset {name!r}: choose one of {', '.join(PRESETS)}"
            )
        preset: Self = getattr(cls, name)()
        return preset

    @classmethod
    def from_rio_rs(
        cls,
        *,
        interval_secs: float = 10.0,
        num_failures_threshold: int = 3,
        interval_secs_threshold: float = 60.0,
        limit_monitored_members: int | None = None,
        drop_inactive_after_secs: float | None = None,
    ) -> Self:
        """Translate the settings of rio-rs, which ``PeerToPeerClusterProvider::builder()`` takes
        there, so that a cluster works without a change. Names, units and defaults are those of
        rio-rs 0.7.2; the formulas stand at the fields of this class.

        rio-rs declares a member dead when ``num_failures_threshold`` checks, ``interval_secs``
        apart, have failed within ``interval_secs_threshold``. Here a check fails if the member's
        lease counter stands still, so the checks fail in a row and take ``interval_secs *
        num_failures_threshold``. The window ``interval_secs_threshold`` must be at least as long:
        with a shorter one rio-rs would never find a member broken.

        :raises ConfigurationError: a value is not positive, or the window is shorter than the
        failed checks take.
        """
        _check_duration("interval_secs", interval_secs)
        _check_duration("interval_secs_threshold", interval_secs_threshold)
        _check_count("num_failures_threshold", num_failures_threshold)
        lease_local = interval_secs * num_failures_threshold
        _check_at_least(
            "interval_secs_threshold",
            interval_secs_threshold,
            "interval_secs * num_failures_threshold",
            lease_local,
        )
        attempt_interval = min(interval_secs, lease_local / MIN_ATTEMPTS)
        return cls(
            renew_interval=attempt_interval,
            lease_local=lease_local,
            lease_evict=EVICT_RATIO * lease_local,
            poll_interval=attempt_interval,
            storage_timeout=min(2.0, lease_local / 2),
            limit_monitored_members=limit_monitored_members,
            drop_inactive_after=math.inf
            if drop_inactive_after_secs is None
            else drop_inactive_after_secs,
            gossip=GossipConfig.every(attempt_interval),
        )


def _check_duration(name: str, value: float) -> None:
    if not 0 < value < math.inf:
        raise ConfigurationError(
            f"{name} must be a finite number of seconds above 0, got {value!r}"
        )


def _check_count(name: str, value: int | None) -> None:
    if value is not None and value < 1:
        raise ConfigurationError(f"{name} must be at least 1, got {value!r}")


def _check_at_least(name: str, value: float, formula: str, least: float) -> None:
    if value < least and not math.isclose(value, least):
        raise ConfigurationError(
            f"{name} must be at least {formula} = {least:g} seconds, got {value:g}"
        )
