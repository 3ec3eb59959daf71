"""Other secrets, other certificates and another authority, while servers run under load."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from functools import partial
from pathlib import Path
from typing import Any, Self

import pytest
import trustme

import rio
from rio.client import pool
from rio.errors import Forbidden, NotAuthenticated
from rio.security.credentials import write_key
from tests.cluster.processes import objects
from tests.cluster.processes.conftest import MakeCluster
from tests.cluster.processes.harness import Cluster, Load, Node, report, until
from tests.cluster.processes.objects import LOOK, Asker, AskOwners, Get
from tests.security.test_security_file import write

SERVERS = 3
INTERVAL = 0.1
COUNTERS = [f"counter-{number}" for number in range(10)]


class Files:
    """The security files of the servers and of a client."""

    def __init__(self, folder: Path) -> None:
        self.nodes = [rio.Key.generate("node-1", "node")]
        self.clients = [rio.Key.generate("web-1", "call")]
        self.others = [
            rio.Key.generate("removed", "call"),
            rio.Key.generate("narrowed", "call", ("Counter.*",)),
        ]
        self.ca = ["old.pem"]
        """The authorities that are trusted. The first has signed the certificates that are used."""
        self.of_servers = [folder / f"server-{number}.toml" for number in range(SERVERS)]
        self.of_client = folder / "client.toml"
        self._folder = folder
        for name in ("old", "new"):
            authority = trustme.CA()
            authority.cert_pem.write_to_path(folder / f"{name}.pem")
            for number in range(SERVERS):
                own = authority.issue_cert("node.example")
                own.private_key_and_cert_chain_pem.write_to_path(folder / f"{name}-{number}.pem")

    def write(self) -> None:
        ca = f"ca = {self.ca}\n"
        keys = "".join(map(write_key, [*self.nodes, *self.clients, *self.others]))
        signer = self.ca[0].removesuffix(".pem")
        for number, file in enumerate(self.of_servers):
            own = f"{signer}-{number}.pem"
            write(file, f'certificate = "{own}"\nprivate_key = "{own}"\n{ca}{keys}')
        write(self.of_client, ca + write_key(self.clients[0]))

    def security(self, key: rio.Key) -> rio.Security:
        return rio.Security([key], ca=[self._folder / name for name in self.ca])


class Rotation:
    """A cluster whose files change, step by step, while its objects are called."""

    def __init__(self, cluster: Cluster, files: Files, client: rio.Client, load: Load) -> None:
        self._cluster = cluster
        self._files = files
        self._client = client
        self._load = load
        self._steps = 0
        self._tasks = asyncio.TaskGroup()
        self._is_over = False
        self.rounds = Counter[str]()
        """How often objects have called each other across the servers, and new clients objects."""

    async def __aenter__(self) -> Self:
        await self._tasks.__aenter__()
        work = (self._call_across, self._call_as_another_client)
        for each in work:
            self._tasks.create_task(each())
        return self

    async def __aexit__(self, *failure: Any) -> None:
        self._is_over = True
        await self._tasks.__aexit__(*failure)

    async def _call_across(self) -> None:
        while not self._is_over:
            message = AskOwners(COUNTERS, time.monotonic())
            await self._client.send(Asker, f"asker-{self.rounds['across'] % 9}", message)
            self.rounds["across"] += 1

    async def _call_as_another_client(self) -> None:
        while not self._is_over:
            async with rio.Client(self._cluster.url, security=self._files.of_client) as client:
                await asyncio.gather(*(client.send(objects.Counter, id, Get()) for id in COUNTERS))
            self.rounds["another client"] += 1

    async def step(self) -> None:
        """Put the files in place, and wait until all processes go by them and calls went on."""
        self._files.write()
        self._steps += 1
        for node in self._cluster.nodes:
            await until(partial(self._has_read, node), "the new file to be read")
        await until(self._client_has_changed, "the client to prove itself by its first key")
        await self.more()

    async def more(self) -> None:
        """Wait until everybody has called everybody."""
        before = self.rounds.copy()
        await self._load.more(50)
        await until(lambda: all(self.rounds[name] > before[name] + 2 for name in before))

    def _has_read(self, node: Node) -> bool:
        return sum(" again: <Security " in line for line in node.output) >= self._steps

    def _client_has_changed(self) -> bool:
        used = {each.key for each in self._client._router.pool.connections}
        return used == {self._files.clients[0]}


@pytest.fixture
def files(tmp_path: Path) -> Files:
    files = Files(tmp_path)
    files.write()
    return files


async def test_secrets_and_authorities_are_replaced_under_load_and_no_call_fails(
    make_cluster: MakeCluster, files: Files, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pool, "LOOK_INTERVAL", INTERVAL)
    environs = [{"RIO_SECURITY": str(each), LOOK: str(INTERVAL)} for each in files.of_servers]
    cluster = await make_cluster("strict", *environs)
    async with rio.Client(cluster.url, security=files.of_client) as client:
        cluster.client = client
        async with (
            Load(client, counters=30, callers=6) as load,
            Rotation(cluster, files, client, load) as rotation,
        ):
            await replace_secrets(files, rotation)
            await cut_keys_off(cluster, files, rotation)
            await survive_a_bad_file(files, cluster.nodes[0], rotation)
            await replace_authority(files, rotation)
        assert load.errors == []
        assert await load.violations(cluster) == []
    assert cluster.evictions == []
    assert all(node.alive for node in cluster.nodes)
    report(f"secrets and authorities replaced: {len(load.calls)} calls, {rotation.rounds}")


async def replace_secrets(files: Files, rotation: Rotation) -> None:
    files.nodes.append(rio.Key.generate("node-2", "node"))
    files.clients.append(rio.Key.generate("web-2", "call"))
    await rotation.step()
    files.nodes.reverse()
    files.clients.reverse()
    await rotation.step()
    del files.nodes[1:], files.clients[1:]
    await rotation.step()


async def cut_keys_off(cluster: Cluster, files: Files, rotation: Rotation) -> None:
    """Remove one key, and narrow another."""
    removed, narrowed = files.others
    async with (
        rio.Client(cluster.url, security=files.security(removed)) as one,
        rio.Client(cluster.url, security=files.security(narrowed)) as two,
    ):
        for client in one, two:
            await asyncio.gather(*(client.send(objects.Counter, id, Get()) for id in COUNTERS))
        connections = [*one._router.pool.connections, *two._router.pool.connections]
        files.others = [rio.Key("narrowed", "call", narrowed.secret, ("Counter.Add",))]
        await rotation.step()
        await until(lambda: not any(each.usable for each in connections))
        with pytest.raises(NotAuthenticated, match="knows no key 'removed'"):
            await one.send(objects.Counter, COUNTERS[0], Get())
        with pytest.raises(Forbidden):
            await two.send(objects.Counter, COUNTERS[0], Get())


async def survive_a_bad_file(files: Files, node: Node, rotation: Rotation) -> None:
    write(files.of_servers[0], "nonsense")
    await until(lambda: node.said("the credentials stay as they were"))
    await rotation.more()


async def replace_authority(files: Files, rotation: Rotation) -> None:
    files.ca.append("new.pem")
    await rotation.step()
    files.ca.reverse()
    await rotation.step()
    del files.ca[1:]
    await rotation.step()
