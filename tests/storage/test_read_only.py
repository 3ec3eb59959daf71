"""Clients only read: a standby of PostgreSQL will do, and a role that cannot write."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

import rio
from rio.cli.program import main
from rio.errors import ConfigurationError, StorageUnavailable
from rio.storage import _connector
from rio.storage._urls import accept_read_only
from rio.storage.storage import open_members
from tests.servers import PostgresServer

pytestmark = [pytest.mark.both_loops, pytest.mark.servers]


class Ping(rio.Message[str]):
    pass


class Thing(rio.ServiceObject):
    @rio.handler
    def ping(self, message: Ping) -> str:
        return self.id


async def works_for_a_client(url: str) -> bool:
    async with rio.Client(url) as client:
        return await client.ref(Thing, "a").ping(Ping()) == "a"


async def test_clients_read_the_members_from_a_standby(
    capsys: pytest.CaptureFixture[str],
) -> None:
    with await asyncio.to_thread(PostgresServer) as primary:
        async with rio.Server(rio.Registry(Thing), storage=primary.url) as server:
            with await asyncio.to_thread(primary.standby) as standby:
                assert await works_for_a_client(standby.url)
                await asyncio.to_thread(main, ["members", "--storage", standby.url])
                assert str(server.address) in capsys.readouterr().out


async def test_clients_read_the_members_as_a_role_that_may_only_read(
    postgres_url: str, session: Any
) -> None:
    async with rio.Server(rio.Registry(Thing), storage=postgres_url):
        schema = await session.fetchval("SELECT current_schema()")
        await session.execute(
            f"CREATE ROLE reader_of_{schema} LOGIN;"
            f" ALTER ROLE reader_of_{schema} SET default_transaction_read_only = on;"
            f" GRANT USAGE ON SCHEMA {schema} TO reader_of_{schema};"
            f" GRANT SELECT ON rio_cluster, rio_member TO reader_of_{schema}"
        )
        assert await works_for_a_client(postgres_url.replace("rio@", f"reader_of_{schema}@"))


@pytest.mark.parametrize(
    ("url", "accepted"),
    [
        ("postgres://h/d", "postgres://h/d?target_session_attrs=any"),
        ("postgresql://h/d?sslmode=prefer", None),
        (
            "postgres://h/d?target_session_attrs=primary",
            "postgres://h/d?target_session_attrs=primary",
        ),
        ("redis://h/0?namespace=a", "redis://h/0?namespace=a"),
        ("sqlite:///a?b.db", "sqlite:///a?b.db"),
    ],
)
def test_a_url_may_say_which_server_it_wants(url: str, accepted: str | None) -> None:
    assert accept_read_only(url) == (accepted or f"{url}&target_session_attrs=any")


async def test_a_server_refuses_a_standby_and_says_why(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_connector, "WAIT_TIMEOUT", 0.05)
    with await asyncio.to_thread(PostgresServer) as primary:
        async with rio.open_storage(primary.url):
            pass
        with await asyncio.to_thread(primary.standby) as standby:
            server = rio.Server(rio.Registry(Thing), storage=standby.url)
            with pytest.raises(StorageUnavailable, match="it is a standby, or read-only"):
                await server.prepare()


def test_a_url_that_names_no_storage_is_refused_for_clients_too() -> None:
    with pytest.raises(ConfigurationError, match="is no storage URL"):
        open_members("bank.db")
