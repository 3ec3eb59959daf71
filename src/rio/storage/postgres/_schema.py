"""The tables of ``rio`` in a schema of PostgreSQL."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from rio.storage._migrations import (
    Migration,
    SchemaStatus,
    check_schema,
    newest_schema,
    pending,
)
from rio.storage._sql import LIVE_MEMBERS

NEXT_AFTER = "greatest({high} + 1, (extract(epoch FROM clock_timestamp()) * 1000000)::bigint)"
NEXT_TOKEN = "nextval('rio_token')"
_NO_TIMEOUT = 86400.0
"""Seconds: a migration may rewrite every row of a large table."""
TOKENS_ARE_RAISED = "(SELECT rio_raise_token())"
"""A condition that is always true. Before a statement draws tokens, it takes care that they are not
behind the clock, and it does so before it holds any row, so that nobody waits in a circle.
"""
TOKEN_DELAY = 100_000
"""Microseconds by which tokens may be behind the clock, so that few statements raise them."""
CHANNEL = "rio_members"
"""The channel that tells each new version of the membership, and in which schema it is."""

# Names are UTF-8 in BYTEA: the TEXT of PostgreSQL cannot hold NUL.
_KEY = "type_name BYTEA NOT NULL, id BYTEA NOT NULL"
_SCHEMA_1 = f"""
    CREATE TABLE rio_cluster (
        single_row INTEGER PRIMARY KEY CHECK (single_row = 1),
        schema_version BIGINT NOT NULL,
        snapshot_version BIGINT NOT NULL,
        generation_high BIGINT NOT NULL,
        cluster_id TEXT NOT NULL,
        adopted_by TEXT NOT NULL DEFAULT '',
        settings BYTEA NOT NULL DEFAULT ''
    );
    INSERT INTO rio_cluster VALUES (1, 1, 0, 0, replace(gen_random_uuid()::text, '-', ''));
    CREATE TABLE rio_member (
        generation BIGINT PRIMARY KEY,
        address TEXT NOT NULL,
        status BIGINT NOT NULL,
        lease_counter BIGINT NOT NULL,
        metadata BYTEA NOT NULL,
        votes BYTEA NOT NULL,
        manifest BYTEA NOT NULL,
        manifest_digest BYTEA NOT NULL
    ) WITH (fillfactor = 50);
    CREATE SEQUENCE rio_token;
    CREATE TABLE rio_placement (
        {_KEY}, generation BIGINT NOT NULL, token BIGINT NOT NULL, PRIMARY KEY (type_name, id)
    );
    CREATE INDEX rio_placement_generation ON rio_placement (generation);
    CREATE FUNCTION rio_raise_token() RETURNS boolean LANGUAGE plpgsql AS $$
        DECLARE
            now_us BIGINT := extract(epoch FROM clock_timestamp()) * 1000000;
        BEGIN
            IF (SELECT last_value FROM rio_token) < now_us - {TOKEN_DELAY} THEN
                PERFORM pg_advisory_xact_lock(hashtext('rio_token'));
                IF (SELECT last_value FROM rio_token) < now_us - {TOKEN_DELAY} THEN
                    PERFORM setval('rio_token', now_us);
                END IF;
            END IF;
            RETURN TRUE;
        END
    $$;
    CREATE TABLE rio_object (
        {_KEY}, token BIGINT NOT NULL, version BIGINT NOT NULL, has_more BOOLEAN NOT NULL,
        state_name BYTEA NOT NULL, schema BIGINT NOT NULL, data BYTEA NOT NULL,
        PRIMARY KEY (type_name, id)
    ) WITH (fillfactor = 70);
    CREATE TABLE rio_state (
        {_KEY}, state_name BYTEA NOT NULL, schema BIGINT NOT NULL, data BYTEA NOT NULL,
        PRIMARY KEY (type_name, id, state_name)
    ) WITH (fillfactor = 70);
    CREATE FUNCTION rio_tell_members() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
        PERFORM pg_notify('{CHANNEL}', NEW.snapshot_version || ' ' || TG_TABLE_SCHEMA);
        RETURN NULL;
    END $$;
    CREATE TRIGGER rio_tell_members AFTER UPDATE OF snapshot_version ON rio_cluster
        FOR EACH ROW EXECUTE FUNCTION rio_tell_members();
"""
MIGRATIONS: tuple[Migration, ...] = ()
"""From schema 1 on. What was released never changes."""


def current_schema() -> int:
    """The schema that this ``rio`` works on."""
    return newest_schema(MIGRATIONS)


# to_regclass() may be stale. Tables of another cluster, in a schema behind the first one of the
# search_path, are visible too.
_HAS_SCHEMA = """
    SELECT count(*) FROM pg_class AS c JOIN pg_namespace AS n ON n.oid = c.relnamespace
    WHERE c.relname = 'rio_cluster' AND n.nspname = current_schema()
"""
_LOCK = "SELECT pg_advisory_xact_lock(hashtext('rio'))"


async def prepare_schema(connection: Any, server: str) -> None:
    """Create the tables if there are none, and check their schema.

    Of many who do so at the same time, one creates them.

    :raises SchemaMismatch: another version of ``rio`` made them.
    """
    if not await connection.value_in_time(_HAS_SCHEMA):
        await connection.execute(f"BEGIN; {_LOCK}")
        if not await connection.value_in_time(_HAS_SCHEMA):
            await connection.execute(_SCHEMA_1)
            await _apply(connection, MIGRATIONS)
        await connection.execute("COMMIT")
    check_schema(server, await _read_schema(connection), current_schema())


async def read_status(connection: Any, server: str) -> SchemaStatus:
    """How the tables stand to those of this ``rio``."""
    found, live = 0, []
    if await connection.value_in_time(_HAS_SCHEMA):
        found, live = await _read_schema(connection), await connection.fetch_in_time(LIVE_MEMBERS)
    return SchemaStatus(
        server,
        found,
        current_schema(),
        tuple(str(address) for (address,) in live),
        tuple(migration.summary for migration in pending(MIGRATIONS, found)),
    )


async def migrate(connection: Any, server: str) -> None:
    """Do the migrations that the tables need in one transaction, however long they take.

    :raises SchemaMismatch: a server has not ended, or a newer ``rio`` made the tables.
    """
    async with connection.transaction():
        await connection.execute(
            "SET LOCAL statement_timeout = 0; SET LOCAL idle_in_transaction_session_timeout = 0;"
            f" {_LOCK}",
            timeout=_NO_TIMEOUT,
        )
        if not await connection.value_in_time(_HAS_SCHEMA):
            return
        await connection.execute("LOCK TABLE rio_cluster, rio_member", timeout=_NO_TIMEOUT)
        status = await read_status(connection, server)
        status.check_newer()
        if status.outdated:
            status.check_quiet()
            await _apply(connection, pending(MIGRATIONS, status.found))


async def _apply(connection: Any, migrations: Sequence[Migration]) -> None:
    for migration in migrations:
        for statement in migration.steps:
            await connection.execute(statement, timeout=_NO_TIMEOUT)
    await connection.execute(f"UPDATE rio_cluster SET schema_version = {current_schema()}")


async def _read_schema(connection: Any) -> int:
    version: int = await connection.value_in_time(
        "SELECT coalesce(max(schema_version), 0) FROM rio_cluster"
    )
    return version
