"""A server shows over HTTP its members and whether it takes part.

It does so from before it has joined until after it has drained.
"""

from __future__ import annotations

import asyncio
import json
import signal
import sqlite3
from collections.abc import AsyncIterator
from contextlib import closing
from pathlib import Path

import pytest

import rio
from rio.errors import BindFailed, ConfigurationError
from rio.storage.http import HttpMembershipStorage
from rio.storage.local import LocalMembershipStorage, LocalObjectPlacement, LocalState
from rio.testing.faults import StorageFaults
from tests.cli.processes import Running
from tests.cli.processes import rio as rio_command
from tests.cluster.processes.harness import until

pytestmark = pytest.mark.both_loops


class Hold(rio.Message[int]):
    pass


class Add(rio.Message[int]):
    pass


class Sum(rio.State):
    value: int = 0


class Counter(rio.ServiceObject):
    sum: Sum = rio.managed_state()

    @rio.handler
    async def add(self, _: Add) -> int:
        self.sum.value += 1
        await self.save_state()
        return self.sum.value

    @rio.handler
    async def hold(self, _: Hold) -> int:
        holding, released = self.app_data.get(Gate).holding, self.app_data.get(Gate).released
        holding.set()
        await released.wait()
        return 1


class Gate:
    def __init__(self) -> None:
        self.holding, self.released = asyncio.Event(), asyncio.Event()


async def page(server: rio.Server, path: str) -> tuple[int, bytes]:
    return await page_at(server.http_address, path)


async def page_at(address: str, path: str) -> tuple[int, bytes]:
    host, _, port = address.rpartition(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    writer.write(f"GET {path} HTTP/1.0\r\n\r\n".encode())
    head, _, body = (await reader.read()).partition(b"\r\n\r\n")
    writer.close()
    await writer.wait_closed()
    return int(head.split(b" ")[1]), body


async def ready(server: rio.Server, status: int) -> bool:
    return (await page(server, "/readyz"))[0] == status


@pytest.fixture
async def storage() -> AsyncIterator[rio.Storage]:
    async with rio.open_storage("memory://") as storage:
        yield storage


async def test_a_server_shows_the_members_and_a_client_finds_the_servers_by_it(
    storage: rio.Storage,
) -> None:
    registry = rio.Registry(Counter)
    async with (
        rio.Server(registry, storage=storage, cluster="local", http="127.0.0.1:0") as first,
        rio.Server(registry, storage=storage, cluster="local") as second,
    ):
        await first._cluster.refresh()
        shown = json.loads((await page(first, "/members"))[1])
        assert [(member["address"], member["status"]) for member in shown["members"]] == [
            (first.address, "ACTIVE"),
            (second.address, "ACTIVE"),
        ]
        host, _, port = second.address.rpartition(":")
        status, body = await page(first, f"/members/{host}/{port}")
        assert (status, json.loads(body)["generation"]) == (200, second.generation)
        assert second.http_address == ""
        async with rio.Client(f"http://{first.http_address}") as client:
            assert await client.send(Counter, "ada", Add()) == 1
        async with HttpMembershipStorage(f"http://{first.http_address}") as membership:
            assert await membership.snapshot() == first.members


async def test_a_server_is_not_ready_as_soon_as_it_drains_and_lives_on_until_it_has(
    storage: rio.Storage,
) -> None:
    gate, data = Gate(), rio.AppData()
    data.set(gate)
    server = rio.Server(
        rio.Registry(Counter), storage=storage, cluster="local", http="127.0.0.1:0", app_data=data
    )
    async with server, rio.Client(storage) as client:
        assert await page(server, "/readyz") == (200, b"ok\n")
        holding = asyncio.ensure_future(client.send(Counter, "ada", Hold()))
        await gate.holding.wait()
        stopping = asyncio.create_task(server.stop())
        await asyncio.sleep(0)
        assert await page(server, "/readyz") == (503, b"draining\n")
        assert await page(server, "/livez") == (200, b"ok\n")
        gate.released.set()
        assert await holding == 1
        await stopping
        with pytest.raises(ConnectionRefusedError):
            await page(server, "/livez")


async def test_a_server_is_not_ready_before_it_has_joined_nor_while_it_is_fenced(
    storage: rio.Storage,
) -> None:
    faults = StorageFaults()
    faults.silent = True
    server = rio.Server(
        rio.Registry(Counter), storage=faults.wrap(storage), cluster="local", http="127.0.0.1:0"
    )
    async with asyncio.TaskGroup() as tasks:
        faults.silent = False
        await server.prepare()
        faults.silent = True
        binding = tasks.create_task(server.bind())
        await until(lambda: server.http_address)
        assert await page(server, "/readyz") == (503, b"joining\n")
        assert await page(server, "/livez") == (200, b"ok\n")
        faults.silent = False
        await binding
    try:
        assert await page(server, "/readyz") == (200, b"ok\n")
        faults.unavailable = True
        await until(lambda: ready(server, 503))
        assert (await page(server, "/readyz"))[1].startswith(b"fenced")
        faults.unavailable = False
        await until(lambda: ready(server, 200))
    finally:
        await server.stop()


async def test_an_http_address_that_is_taken_stops_the_server_and_gives_its_own_back(
    storage: rio.Storage,
) -> None:
    async with rio.Server(
        rio.Registry(Counter), storage=storage, cluster="local", http="127.0.0.1:0"
    ) as first:
        second = rio.Server(
            rio.Registry(Counter), storage=storage, cluster="local", http=first.http_address
        )
        with pytest.raises(BindFailed, match="HTTP"):
            async with second:
                pass
        snapshot = await storage.membership.snapshot()
        assert [member.address for member in snapshot.members] == [first.address]


# --- a URL for each role


async def test_each_role_of_a_server_can_have_a_url_of_its_own(tmp_path: Path) -> None:
    for number in range(2):
        async with rio.Server(
            rio.Registry(Counter),
            membership=f"sqlite:///{tmp_path}/m.db",
            placement=f"sqlite:///{tmp_path}/p.db",
            state=f"sqlite:///{tmp_path}/s.db",
            cluster="local",
        ) as server:
            assert await server.client.send(Counter, "ada", Add()) == number + 1
    async with rio.open_storage(f"sqlite:///{tmp_path}/s.db").state as state:
        assert (await state.load_object(rio.ObjectId("Counter", "ada"), 1 << 60)).version == 2


async def test_a_role_without_a_storage_is_named() -> None:
    with pytest.raises(ConfigurationError, match="placement, state"):
        rio.Server(rio.Registry(Counter), membership="memory://")


# --- storage that forgets


class Forgetful(LocalState):
    why_not_durable = "this one forgets"


@pytest.mark.parametrize(
    ("preset", "accepted"), [("strict", False), ("fast", True), ("local", True)]
)
async def test_only_the_strict_preset_refuses_storage_that_forgets(
    preset: str, accepted: bool, caplog: pytest.LogCaptureFixture
) -> None:
    server = rio.Server(
        rio.Registry(Counter),
        membership=LocalMembershipStorage(),
        placement=LocalObjectPlacement(),
        state=Forgetful(),
        cluster=preset,
    )
    if not accepted:
        with pytest.raises(ConfigurationError, match="this one forgets"):
            await server.__aenter__()
        return
    async with server:
        assert "this one forgets" in caplog.text


# --- the command


SHOP = """
import rio

class Add(rio.Message[int]):
    pass

class Sum(rio.State):
    value: int = 0

class Counter(rio.ServiceObject):
    sum: Sum = rio.managed_state()

    @rio.handler
    async def add(self, _: Add) -> int:
        self.sum.value += 1
        await self.save_state()
        return self.sum.value

registry = rio.Registry(Counter)
"""


async def test_the_command_serves_http_and_keeps_each_role_where_it_is_told(tmp_path: Path) -> None:
    (tmp_path / "shop.py").write_text(SHOP)
    roles = (
        "--storage",
        "sqlite:///a.db",
        "--state",
        "sqlite:///b.db",
        "--placement",
        "sqlite:///c.db",
    )
    options = ("--http", "127.0.0.1:0", "--cluster", "local")
    with Running("run", "shop:registry", *roles, *options, cwd=tmp_path) as server:
        address = server.address()
        http = server.line().removeprefix("showing the members on http://").removesuffix("/members")
        assert await page_at(http, "/readyz") == (200, b"ok\n")
        assert address.encode() in (await page_at(http, "/members"))[1]
        answered = await asyncio.to_thread(
            rio_command,
            "send",
            "Counter",
            "ada",
            "Add",
            "--storage",
            f"http://{http}",
            cwd=tmp_path,
        )
        assert (answered.stdout, answered.stderr) == ("1\n", "")
        server.signal(signal.SIGTERM)
        assert await asyncio.to_thread(server.ended) == 0
    ada = rio.ObjectId("Counter", "ada")
    async with rio.open_storage(f"sqlite:///{tmp_path}/b.db") as storage:
        assert await storage.placement.lookup(ada) is None
        assert (await storage.state.load_object(ada, 1 << 60)).version == 1
    async with rio.open_storage(f"sqlite:///{tmp_path}/c.db") as storage:
        assert tokens_given_out_by(tmp_path / "c.db")
        assert not tokens_given_out_by(tmp_path / "b.db")
        assert (await storage.state.load_object(ada, 1 << 60)).version == 0


def tokens_given_out_by(path: Path) -> bool:
    with closing(sqlite3.connect(path)) as connection:
        [(high,)] = connection.execute("SELECT token_high FROM rio_cluster")
    return bool(high)


async def test_a_server_that_is_not_ready_says_so_with_its_members(storage: rio.Storage) -> None:
    server = rio.Server(rio.Registry(Counter), storage=storage, cluster="local", http="127.0.0.1:0")
    async with server:
        assert (await page(server, "/members"))[0] == 200
        server._cluster._fence()
        status, body = await page(server, "/members")
        assert status == 503
        assert [member["generation"] for member in json.loads(body)["members"]] == [
            server.generation
        ]
