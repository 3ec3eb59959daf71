"""How many objects are claimed and states saved durably in a second?

They are claimed and saved one after the other, and 64 at a time: first through a
:class:`rio.Storage`, beside rows that the database's own driver writes; then through a client and a
server. A cold activation claims the object. With state it also loads and fences that state, and the
fence is a second write. A call that saves is answered afterwards. SQLite runs with
``synchronous=FULL``, PostgreSQL with ``fsync`` and ``synchronous_commit=on``, Redis with
``appendfsync always``.
"""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from typing import Any, NamedTuple

import pytest

import rio
from bench.drivers import Driver, PostgresDriver, RedisDriver, SqliteDriver
from bench.figures import Work, in_turn
from bench.load import in_parallel
from bench.processes import node
from bench.workload import Counter, Increment, Ping, Room, Touch
from rio.contracts.state import Batch, StoredState
from tests.servers import PostgresServer, RedisServer, Server

WIDE = 64
ROUNDS = 3
CALLS = {1: 250, WIDE: WIDE * 40}
DATA = bytes(100)
BATCH = Batch({"s": StoredState(DATA)})
TARGETS = {"sqlite": 40_000, "postgres": 30_000, "redis": 40_000}
WIDTHS = pytest.mark.parametrize("width", CALLS, ids=["alone", "64 wide"])


class Backend(NamedTuple):
    name: str
    url: str
    driver: Driver


@pytest.fixture(scope="module", params=TARGETS)
def backend(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Backend]:
    if request.param == "sqlite":
        path = str(tmp_path_factory.mktemp("storage") / "rio.db")
        yield Backend("sqlite", f"sqlite:///{path}", SqliteDriver(f"{path}.driver"))
        return
    server: Server
    if request.param == "postgres":
        server = PostgresServer(fsync="on", full_page_writes="on", synchronous_commit="on")
    else:
        server = RedisServer(appendfsync="always")
    make = PostgresDriver if request.param == "postgres" else RedisDriver
    with server:
        yield Backend(request.param, server.url, make(server.url))


numbers = itertools.count()


def in_rounds(runner: asyncio.Runner, width: int, do: Callable[[int], Any]) -> Work:
    """Each round has numbers of its own."""
    count = CALLS[width]

    def round() -> None:
        first = next(numbers) * count
        runner.run(in_parallel(count, width, lambda number: do(first + number)))

    return Work(round, count)


def of_driver(runner: asyncio.Runner, width: int, driver: Driver) -> Work:
    """Write one row a statement, or 64 rows at the cost of one commit."""
    count = CALLS[width]

    async def rows() -> None:
        first = next(numbers) * count
        for start in range(first, first + count, width):
            if width == 1:
                await driver.write((f"row-{start}", DATA))
            else:
                await driver.write_all(
                    [(f"row-{number}", DATA) for number in range(start, start + width)]
                )

    return Work(lambda: runner.run(rows()), count)


def compare(
    report: Any,
    what: str,
    backend: Backend,
    width: int,
    ours: Work,
    rows: Work,
    *,
    targets: bool = True,
) -> None:
    """Add a line to the closing table.

    Alone, a statement is compared with the driver's; with 64 at a time, there are numbers to reach.
    """
    limits = {"ratio_at_least": 1 / 1.5} if width == 1 else {"at_least": TARGETS[backend.name]}
    beside = ("driver's rows" if width > 1 else "driver's row", rows.rate)
    name = f"{backend.name}, {f'{width} wide' if width > 1 else 'alone'}: {what}"
    report(name, ours.rate, "/s", beside=beside, **(limits if targets else {}))


# --- through the storage --------------------------------------------------------------------------


@asynccontextmanager
async def prepared(backend: Backend) -> AsyncIterator[rio.Storage]:
    async with rio.open_storage(backend.url) as storage, backend.driver:
        yield storage


@WIDTHS
def test_claims(
    benchmark: Any, report: Any, runner: asyncio.Runner, backend: Backend, width: int
) -> None:
    opened = prepared(backend)
    storage = runner.run(opened.__aenter__())
    ours = in_rounds(
        runner,
        width,
        lambda number: storage.placement.claim(rio.ObjectId("Claimed", str(number)), 1),
    )
    rows = of_driver(runner, width, backend.driver)
    in_turn(benchmark, ours, rows, rounds=ROUNDS)
    runner.run(opened.__aexit__(None, None, None))
    compare(report, "claims", backend, width, ours, rows)


@WIDTHS
def test_saves(
    benchmark: Any, report: Any, runner: asyncio.Runner, backend: Backend, width: int
) -> None:
    """Save each state again and again, as a busy object does."""
    opened = prepared(backend)
    storage = runner.run(opened.__aenter__())
    versions = dict.fromkeys(range(CALLS[width]), 0)
    tokens: dict[int, int] = {}
    kind = f"Saved{width}"

    async def begin(number: int) -> None:
        object_id = rio.ObjectId(kind, str(number))
        tokens[number] = (await storage.placement.claim(object_id, 1)).token
        await save(number)

    async def save(number: int) -> None:
        number %= len(versions)
        versions[number] = await storage.state.commit(
            rio.ObjectId(kind, str(number)), tokens[number], versions[number], BATCH
        )

    runner.run(in_parallel(len(versions), 64, begin))
    ours, rows = in_rounds(runner, width, save), of_driver(runner, width, backend.driver)
    in_turn(benchmark, ours, rows, rounds=ROUNDS)
    runner.run(opened.__aexit__(None, None, None))
    compare(report, "saves", backend, width, ours, rows)


# --- through a client and a server ----------------------------------------------------------------


@WIDTHS
def test_cold_activations_and_saving_calls(
    benchmark: Any, report: Any, runner: asyncio.Runner, backend: Backend, width: int
) -> None:
    with node(backend.url):
        client = rio.Client(backend.url)
        runner.run(client.start())
        runner.run(backend.driver.open())
        kind = f"w{width}-"

        async def activate(number: int) -> None:
            await client.send(Room, f"{kind}{number}", Ping(""))

        async def activate_and_load(number: int) -> None:
            await client.send(Counter, f"{kind}{number}", Touch())

        async def increment(number: int) -> None:
            await client.send(Counter, f"{kind}busy-{number % CALLS[width]}", Increment())

        activations, loads, saves = (
            in_rounds(runner, width, do) for do in (activate, activate_and_load, increment)
        )
        rows = of_driver(runner, width, backend.driver)
        in_turn(benchmark, activations, loads, saves, rows, rounds=ROUNDS)
        runner.run(backend.driver.close())
        runner.run(client.close())
    compare(report, "cold activations", backend, width, activations, rows)
    compare(report, "cold activations with state", backend, width, loads, rows, targets=False)
    compare(report, "calls that save", backend, width, saves, rows)
