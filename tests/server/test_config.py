"""What a server is made with: its settings are checked at once, and every mistake is named."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest

import rio
from rio.errors import ConfigurationError, WrongCluster
from tests.server.harness import Cluster


class Tell(rio.Message[str]):
    pass


class Teller(rio.ServiceObject):
    @rio.handler
    def tell_address(self, message: Tell) -> str:
        return str(self.address)


@pytest.mark.parametrize(
    ("settings", "text"),
    [
        ({"timeout": 0.0}, "timeout must be a finite number of seconds above 0, got 0.0"),
        ({"timeout": math.inf}, "timeout must be .* got inf"),
        ({"timeout": math.nan}, "timeout must be .* got nan"),
        ({"drain_timeout": -1.0}, "drain_timeout must be a finite number of seconds, 0 or more"),
        ({"frame_limit": 1023}, "frame_limit must be from 1024 to 67108864 bytes, got 1023"),
        ({"frame_limit": 2**26 + 1}, "frame_limit must be from 1024 to 67108864 bytes"),
        ({"blocked_after": 0.1}, "blocked_after must be None or at least 0.2, got 0.1"),
        ({"blocked_after": math.nan}, "blocked_after must be None or at least 0.2, got nan"),
        ({"waiting_limit": 0}, "waiting_limit must be at least 1, got 0"),
        ({"in_flight_limit": 0}, "in_flight_limit must be at least 1, got 0"),
        ({"held_limit": 8_388_607}, "held_limit must be None or at least twice .* 8388608 bytes"),
    ],
)
def test_a_setting_out_of_its_range_is_refused(settings: dict[str, Any], text: str) -> None:
    with pytest.raises(ConfigurationError, match=text):
        rio.ServerConfig(**settings)


def test_the_least_values_are_taken() -> None:
    rio.ServerConfig(
        timeout=0.001,
        drain_timeout=0.0,
        frame_limit=1024,
        waiting_limit=1,
        in_flight_limit=1,
        held_limit=2048,
    )


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        ({"cluster": "quick"}, "there is no preset 'quick'"),
        ({"cluster": 5}, "cluster= takes the name of a preset, a rio.ClusterConfig or a rio.Clus"),
        ({"config": rio.ClusterConfig()}, "config= takes a rio.ServerConfig, got ClusterConfig"),
        ({"config": {"timeout": 1.0}}, "config= takes a rio.ServerConfig, got {'timeout': 1.0}"),
    ],
)
def test_an_argument_of_the_wrong_kind_is_refused(arguments: dict[str, Any], text: str) -> None:
    with pytest.raises(ConfigurationError, match=text):
        rio.Server(rio.Registry(Teller), storage="memory://", **arguments)


async def test_a_server_takes_the_provider_of_its_cluster(cluster: Cluster) -> None:
    provider = rio.LocalClusterProvider(cluster.storage.membership)
    server = await cluster.server(Teller, cluster=provider)
    assert (server.generation, server.members) == (provider.generation, provider.snapshot)
    assert await server.client.send(Teller, "a", Tell()) == server.address


async def test_a_server_has_its_members_where_its_provider_has_them(tmp_path: Path) -> None:
    members, rest = (f"sqlite:///{tmp_path}/{name}.db" for name in ("members", "rest"))
    async with rio.open_storage(members) as storage:
        provider = rio.PeerToPeerClusterProvider(storage.membership, rio.ClusterConfig.local())
        async with (
            rio.Server(rio.Registry(Teller), storage=rest, cluster=provider) as server,
            rio.Client(members) as client,
        ):
            assert await client.send(Teller, "a", Tell()) == server.address
        with pytest.raises(ConfigurationError, match="leave membership= out"):
            rio.Server(rio.Registry(Teller), storage=rest, membership=members, cluster=provider)


async def test_calls_of_the_server_take_the_timeout_of_its_settings(cluster: Cluster) -> None:
    server = await cluster.server(Teller, config=rio.ServerConfig(timeout=7.0))
    assert server.client.timeout == 7.0


async def test_a_server_refuses_placements_of_another_cluster(tmp_path: Path) -> None:
    first, second = f"sqlite:///{tmp_path}/first.db", f"sqlite:///{tmp_path}/second.db"
    async with rio.Server(rio.Registry(Teller), storage=first, cluster="local") as server:
        cluster_id = server.members.cluster_id
    for role in ("placement", "state"):
        refused = rio.Server(rio.Registry(Teller), storage=second, cluster="local", **{role: first})
        with pytest.raises(WrongCluster, match=f"first.db.*{cluster_id}.*rio settings new-id"):
            async with refused:
                pass
        assert refused.members.members == ()  # it has not joined
