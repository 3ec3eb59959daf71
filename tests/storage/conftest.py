"""Servers for the tests of storages: one of each kind, with an empty place for each test."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Iterator
from itertools import count
from typing import Any

import asyncpg
import pytest

from tests.servers import PostgresServer, RedisServer, Server, ServerMissing, free_port

numbers = count(1)


def serve(kind: type[PostgresServer] | type[RedisServer], name: str) -> Iterator[Server]:
    """Start a server.

    Where there is no binary, this fails, because a skipped test shows nothing.
    """
    if os.environ.get(f"RIO_TEST_{name}") == "off":
        if os.environ.get("CI"):
            pytest.fail(f"RIO_TEST_{name}=off is not allowed in CI", pytrace=False)
        pytest.skip(f"switched off by RIO_TEST_{name}=off")
    try:
        server = kind()
    except ServerMissing as problem:
        pytest.fail(str(problem), pytrace=False)
    with server:
        yield server


@pytest.fixture(scope="session")
def postgres_server() -> Iterator[Server]:
    yield from serve(PostgresServer, "POSTGRES")


@pytest.fixture(scope="session")
def redis_server() -> Iterator[Server]:
    yield from serve(RedisServer, "REDIS")


@pytest.fixture
def postgres_url(postgres_server: Server, request: pytest.FixtureRequest) -> str:
    """The URL of an empty schema for this test."""
    assert_marked(request.node)
    schema = f"test_{next(numbers)}"
    asyncio.run(create_schema(postgres_server.url, schema))
    return f"{postgres_server.url}?search_path={schema}"


@pytest.fixture
async def session(postgres_url: str) -> AsyncIterator[Any]:
    """Another client's connection to the same tables in PostgreSQL."""
    connection = await asyncpg.connect(postgres_url)
    yield connection
    await connection.close()


@pytest.fixture
def redis_url(redis_server: Server, request: pytest.FixtureRequest) -> str:
    """The URL of an empty namespace for this test."""
    assert_marked(request.node)
    return f"{redis_server.url}?namespace=test_{next(numbers)}"


@pytest.fixture
def unused_port() -> int:
    """A port that nothing listens on."""
    return free_port()


def assert_marked(item: pytest.Item) -> None:
    """``make quick`` runs where there are no such servers: on Windows, for one."""
    assert item.get_closest_marker("servers"), "mark this test `servers`: tests/conftest.py"


async def create_schema(url: str, schema: str) -> None:
    connection = await asyncpg.connect(url)
    await connection.execute(f"CREATE SCHEMA {schema}")
    await connection.close()
