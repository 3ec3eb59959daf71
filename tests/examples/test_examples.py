"""Each example, run as its README says."""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import asyncpg
import pytest

from examples.metric_aggregator.audit import audit
from examples.metric_aggregator.load import Book, value_of
from examples.metric_aggregator.service import Receipts, Report, Summary
from tests.cli.processes import ROOT, Running, python
from tests.servers import PostgresServer


def storage(directory: Path) -> tuple[str, str]:
    return "--storage", f"sqlite:///{directory / 'example.db'}"


@pytest.mark.parametrize("example", ["ping_pong", "presence", "metric_aggregator"])
def test_the_client_prints_what_the_readme_shows(example: str, tmp_path: Path) -> None:
    arguments = (
        "run",
        f"examples.{example}.service:registry",
        *storage(tmp_path),
        "--cluster",
        "local",
        "--log-level",
        "warning",
    )
    with Running(*arguments, cwd=ROOT, errors_in=tmp_path) as server:
        server.address()
        client = python("-m", f"examples.{example}.client", *storage(tmp_path), cwd=ROOT)
        assert client.stderr == ""
        assert server.errors() == ""
    assert f"```\n{client.stdout}```\n" in (ROOT / "examples" / example / "README.md").read_text()


def test_a_trace_goes_over_all_processes_of_the_shop_and_is_drawn(tmp_path: Path) -> None:
    picture = tmp_path / "trace.svg"
    demo = python("-m", "examples.observability.demo", "--picture", str(picture), cwd=ROOT)
    assert demo.stderr == ""
    assert f"```\n{demo.stdout}```\n" in (ROOT / "examples/observability/README.md").read_text()
    drawn = {node.text for node in ElementTree.parse(picture).iter() if node.text}
    assert {"\u25a0 client  ", "Cart/Order ", "save Stock "} <= drawn


def test_what_an_object_saved_outlives_its_server(tmp_path: Path) -> None:
    counts = []
    for _ in range(2):
        arguments = (
            "run",
            "examples.ping_pong.service:registry",
            *storage(tmp_path),
            "--cluster",
            "local",
        )
        with Running(*arguments, cwd=ROOT, errors_in=tmp_path) as server:
            server.address()
            counts += python(
                "-m", "examples.ping_pong.client", *storage(tmp_path), cwd=ROOT
            ).stdout.split()[-1:]
    assert counts == ["2", "4"]


@pytest.fixture(params=["sqlite", "postgres"])
def database(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    if request.param == "sqlite":
        yield f"sqlite:///{tmp_path / 'stock.db'}"
    else:
        with PostgresServer() as server:
            yield server.url


def test_other_programs_read_the_columns_of_a_custom_storage(database: str, tmp_path: Path) -> None:
    page = (ROOT / "examples" / "custom_storage" / "README.md").read_text()
    members = storage(tmp_path)
    with Running(
        *members,
        "--table",
        database,
        cwd=ROOT,
        errors_in=tmp_path,
        module="examples.custom_storage.server",
    ) as server:
        server.address()
        client = python("-m", "examples.custom_storage.client", *members, cwd=ROOT)
        assert client.stderr == ""
        assert f"```\n{client.stdout}```\n" in page
        rows = asyncio.run(read_stock(database))
        shown = "".join(f"{row!r}\n" for row in rows)
        assert f"```\n{shown}```\n" in page
        assert server.errors() == ""


async def read_stock(database: str) -> list[tuple[Any, ...]]:
    query = "SELECT id, name, pieces, shelf FROM stock WHERE rio_version > 0 ORDER BY id"
    if database.startswith("sqlite"):
        with closing(sqlite3.connect(database.removeprefix("sqlite:///"))) as connection:
            return connection.execute(query).fetchall()
    session = await asyncpg.connect(database)
    try:
        return [tuple(row) for row in await session.fetch(query)]
    finally:
        await session.close()


class Reader:
    """Takes the place of a client that reads one metric."""

    def __init__(self, receipts: Receipts, summary: Summary) -> None:
        self._report = Report(summary, {"writer": receipts}, "127.0.0.1:1")

    def ref(self, *_: Any) -> Reader:
        return self

    async def read(self, _: Any) -> Report:
        return self._report


@pytest.mark.parametrize(
    ("taken", "found"),
    [
        ([1, 2, 3], {}),
        ([1, 3, 2], {}),
        ([1, 2], {}),  # the outcome of 3 is unknown
        ([1, 3], {"lost": 1}),
        ([1, 2, 2], {"twice": 1, "wrong_sums": 1}),
        ([1, 2, 3, 3], {"twice": 1, "wrong_sums": 1}),
        ([1, 2, 4], {"ghosts": 1}),  # 4 was refused
        ([1, 2, 5], {"ghosts": 1}),  # 5 was never sent
    ],
)
async def test_the_audit_of_the_demo_finds_what_is_wrong(
    taken: list[int], found: dict[str, int]
) -> None:
    receipts = Receipts()
    for number in taken:
        receipts.add(number)
    summary = Summary(len(taken), sum(map(value_of, taken)), 0, 0)
    book = Book("metric", "writer", sent=4, acknowledged={1, 2}, unknown={3}, refused={4})
    verdict, _ = await audit(Reader(receipts, summary), [book])  # type: ignore[arg-type]
    named = ("lost", "twice", "ghosts", "wrong_sums")
    assert {name: getattr(verdict, name) for name in named} == {**dict.fromkeys(named, 0), **found}
    assert verdict.good == (not found)


def test_the_demo_loses_nothing_when_a_server_is_killed() -> None:
    ended = python("-m", "examples.metric_aggregator.demo", "--seconds", "4", cwd=ROOT)
    assert ended.returncode == 0, ended.stdout + ended.stderr
    rows = dict(
        line.strip().split("   ", 1)
        for line in ended.stdout.splitlines()
        if line.startswith("  ") and "   " in line.strip()
    )
    assert {name: value.strip() for name, value in rows.items()}[
        "acknowledged increments lost"
    ] == "0"
    assert "was killed with SIGKILL" in ended.stdout
    assert "nothing was lost, nothing was applied twice" in ended.stdout
