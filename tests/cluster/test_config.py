"""The settings of a cluster: presets, translation of rio-rs' settings, refusals."""

import math
from typing import Any

import pytest

from rio._core.clock import now
from rio.cluster.config import MIN_EVICT_RATIO, ClusterConfig, GossipConfig
from rio.cluster.peer_to_peer import PeerToPeerClusterProvider
from rio.cluster.provider import LocalClusterProvider
from rio.errors import ConfigurationError


@pytest.mark.parametrize(
    ("name", "renew_interval", "lease_local", "lease_evict", "poll_interval", "failover_bound"),
    [
        ("strict", 1.0, 5.0, 6.5, 1.0, 9.5),
        ("fast", 0.5, 2.5, 3.25, 0.5, 4.75),
        ("local", 0.3, 1.5, 1.95, 0.3, 2.85),
    ],
)
def test_a_preset_has_the_figures_of_its_name(
    name: str,
    renew_interval: float,
    lease_local: float,
    lease_evict: float,
    poll_interval: float,
    failover_bound: float,
) -> None:
    config = ClusterConfig.named(name)
    assert (config.renew_interval, config.lease_local, config.lease_evict) == (
        renew_interval,
        lease_local,
        lease_evict,
    )
    assert config.poll_interval == poll_interval
    assert config.failover_bound == pytest.approx(failover_bound)
    assert config == getattr(ClusterConfig, name)()


def test_the_default_is_strict() -> None:
    assert ClusterConfig() == ClusterConfig.strict()


def test_an_unknown_preset_is_refused_with_the_names_of_those_that_exist() -> None:
    with pytest.raises(ConfigurationError, match="'wan': choose one of strict, fast, local"):
        ClusterConfig.named("wan")


@pytest.mark.parametrize(
    ("changed", "complaint"),
    [
        ({"renew_interval": 0.0}, "renew_interval must be a finite number of seconds above 0"),
        ({"lease_local": -1.0}, "lease_local must be a finite number"),
        ({"lease_evict": math.inf}, "lease_evict must be a finite number"),
        ({"poll_interval": math.nan}, "poll_interval must be a finite number"),
        ({"storage_timeout": 0}, "storage_timeout must be a finite number"),
        ({"drop_inactive_after": 0}, "drop_inactive_after must be more than 0 seconds"),
        ({"limit_monitored_members": 0}, "limit_monitored_members must be at least 1"),
        (
            {"renew_interval": 1.7},
            r"lease_local must be at least 3 \* renew_interval = 5.1 seconds, got 5",
        ),
        (
            {"poll_interval": 2.0},
            r"lease_local must be at least 3 \* poll_interval = 6 seconds, got 5",
        ),
        (
            {"storage_timeout": 2.6},
            r"lease_local must be at least 2 \* storage_timeout = 5.2 seconds",
        ),
        (
            {"lease_evict": 6.0},
            r"lease_evict must be at least 1.222 \* lease_local = 6.11111 seconds, got 6",
        ),
    ],
)
def test_settings_that_cannot_work_are_refused_with_the_value_they_need(
    changed: dict[str, Any], complaint: str
) -> None:
    with pytest.raises(ConfigurationError, match=complaint):
        ClusterConfig(**changed)


def test_the_smallest_eviction_window_that_clocks_allow_is_accepted() -> None:
    assert ClusterConfig(lease_evict=5.0 * MIN_EVICT_RATIO).lease_evict == pytest.approx(
        5.0 * 1.1 / 0.9
    )


@pytest.mark.parametrize(
    ("settings", "renew_interval", "lease_local", "lease_evict", "storage_timeout"),
    [
        ({}, 10.0, 30.0, 39.0, 2.0),
        ({"interval_secs": 1, "num_failures_threshold": 5}, 1.0, 5.0, 6.5, 2.0),
        ({"interval_secs": 3, "num_failures_threshold": 1}, 1.0, 3.0, 3.9, 1.5),
        ({"interval_secs": 0.1, "num_failures_threshold": 3}, 0.1, 0.3, 0.39, 0.15),
        ({"interval_secs": 20, "num_failures_threshold": 3}, 20.0, 60.0, 78.0, 2.0),
    ],
)
def test_the_settings_of_rio_rs_keep_their_meaning(
    settings: dict[str, Any],
    renew_interval: float,
    lease_local: float,
    lease_evict: float,
    storage_timeout: float,
) -> None:
    config = ClusterConfig.from_rio_rs(**settings)
    assert config.renew_interval == pytest.approx(renew_interval)
    assert config.poll_interval == pytest.approx(renew_interval)
    assert config.lease_local == pytest.approx(lease_local)
    assert config.lease_evict == pytest.approx(lease_evict)
    assert config.storage_timeout == pytest.approx(storage_timeout)


def test_the_defaults_are_those_of_rio_rs() -> None:
    given = ClusterConfig.from_rio_rs(
        interval_secs=10.0, num_failures_threshold=3, interval_secs_threshold=60.0
    )
    assert ClusterConfig.from_rio_rs() == given


def test_the_limits_of_rio_rs_are_taken_as_they_are() -> None:
    unlimited = ClusterConfig.from_rio_rs()
    assert (unlimited.limit_monitored_members, unlimited.drop_inactive_after) == (None, math.inf)
    limited = ClusterConfig.from_rio_rs(limit_monitored_members=4, drop_inactive_after_secs=60)
    assert (limited.limit_monitored_members, limited.drop_inactive_after) == (4, 60)


@pytest.mark.parametrize(
    ("settings", "complaint"),
    [
        ({"interval_secs": 0}, "interval_secs must be a finite number"),
        ({"num_failures_threshold": 0}, "num_failures_threshold must be at least 1"),
        ({"interval_secs_threshold": -1}, "interval_secs_threshold must be a finite number"),
        (
            {"interval_secs": 21},
            r"interval_secs_threshold must be at least interval_secs \* num_failures_threshold "
            r"= 63 seconds, got 60",
        ),
        ({"limit_monitored_members": 0}, "limit_monitored_members must be at least 1"),
        ({"drop_inactive_after_secs": 0}, "drop_inactive_after must be more than 0"),
    ],
)
def test_settings_of_rio_rs_that_could_never_evict_are_refused(
    settings: dict[str, Any], complaint: str
) -> None:
    with pytest.raises(ConfigurationError, match=complaint):
        ClusterConfig.from_rio_rs(**settings)


def test_a_provider_of_what_is_no_storage_of_members_is_refused() -> None:
    for provider in (PeerToPeerClusterProvider, LocalClusterProvider):
        with pytest.raises(
            ConfigurationError, match=r"takes a rio.MembershipStorage, got 'sqlite:/"
        ):
            provider("sqlite:///app.db")  # type: ignore[arg-type]


def test_the_clock_does_not_go_back() -> None:
    readings = [now() for _ in range(1000)]
    assert readings == sorted(readings)


def test_settings_of_gossip_that_cannot_work_are_refused() -> None:
    for changed in (
        {"probe_interval": 0},
        {"fan_out": 0},
        {"indirect_probes": -1},
        {"probe_timeout": 0.6},
        {"vote_lifetime": math.inf},
    ):
        with pytest.raises(
            ConfigurationError, match=next(iter(changed)).replace("probe_timeout", "probe_interval")
        ):
            GossipConfig(**changed)  # type: ignore[arg-type]


def test_the_settings_of_gossip_follow_those_of_the_lease() -> None:
    assert ClusterConfig.strict().gossip == GossipConfig() == GossipConfig.every(1.0)
    assert ClusterConfig.local().gossip == GossipConfig.every(0.3)
    assert ClusterConfig.from_rio_rs().gossip == GossipConfig.every(10.0)
