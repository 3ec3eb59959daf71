"""The tables of ``rio`` in a schema of PostgreSQL."""

from __future__ import annotations

from typing import Any

from rio.storage._sql import SCHEMA_VERSION

NEXT_TOKEN = "nextval('rio_token')"
CHANNEL = "rio_members"
"""The channel that tells each new version of the membership, and in which schema it is."""

# Names are UTF-8 in BYTEA: the TEXT of PostgreSQL cannot hold NUL.
_KEY = "type_name BYTEA NOT NULL, id BYTEA NOT NULL"
_SCHEMA = f"""
    CREATE TABLE rio_cluster (
        single_row INTEGER PRIMARY KEY CHECK (single_row = 1),
        schema_version BIGINT NOT NULL,
        snapshot_version BIGINT NOT NULL,
        generation_high BIGINT NOT NULL
    );
    INSERT INTO rio_cluster VALUES (1, {SCHEMA_VERSION}, 0, 0);
    CREATE TABLE rio_member (
        generation BIGINT PRIMARY KEY,
        address TEXT NOT NULL,
        status BIGINT NOT NULL,
        lease_counter BIGINT NOT NULL,
        metadata BYTEA NOT NULL,
        votes BYTEA NOT NULL
    ) WITH (fillfactor = 50);
    CREATE SEQUENCE rio_token;
    CREATE TABLE rio_placement (
        {_KEY}, generation BIGINT, token BIGINT NOT NULL, PRIMARY KEY (type_name, id)
    );
    CREATE INDEX rio_placement_generation ON rio_placement (generation);
    CREATE TABLE rio_state (
        {_KEY}, state_name BYTEA NOT NULL,
        version BIGINT NOT NULL, token BIGINT NOT NULL, data BYTEA NOT NULL,
        PRIMARY KEY (type_name, id, state_name)
    ) WITH (fillfactor = 70);
    CREATE FUNCTION rio_tell_members() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
        PERFORM pg_notify('{CHANNEL}', NEW.snapshot_version || ' ' || TG_TABLE_SCHEMA);
        RETURN NULL;
    END $$;
    CREATE TRIGGER rio_tell_members AFTER UPDATE OF snapshot_version ON rio_cluster
        FOR EACH ROW EXECUTE FUNCTION rio_tell_members();
"""
# to_regclass() may be stale
_HAS_SCHEMA = (
    "SELECT count(*) FROM pg_class WHERE relname = 'rio_cluster' AND pg_table_is_visible(oid)"
)


async def prepare_schema(connection: Any) -> int:
    """Create the tables if there are none, and return their version.

    Of many who do so at the same time, one creates them.
    """
    if not await connection.fetchval(_HAS_SCHEMA):
        await connection.execute("BEGIN; SELECT pg_advisory_xact_lock(hashtext('rio'))")
        if not await connection.fetchval(_HAS_SCHEMA):
            await connection.execute(_SCHEMA)
        await connection.execute("COMMIT")
    version: int = await connection.fetchval(
        "SELECT coalesce(max(schema_version), 0) FROM rio_cluster"
    )
    return version
