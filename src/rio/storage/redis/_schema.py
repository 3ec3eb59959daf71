"""The schema of a namespace in Redis: a hash that says which it is, and its migrations."""

from __future__ import annotations

import secrets
from collections.abc import Awaitable, Callable
from typing import Any

from rio.contracts.membership import MemberStatus
from rio.errors import SchemaMismatch
from rio.storage._migrations import (
    Migration,
    SchemaStatus,
    check_schema,
    newest_schema,
    pending,
)

MIGRATIONS: tuple[Migration, ...] = ()
"""From schema 1 on. What was released never changes. A step is an async function of ``ask`` and the
namespace, and may be called again, because Redis has no transaction over all keys.
"""


def current_schema() -> int:
    """The schema that this ``rio`` works on."""
    return newest_schema(MIGRATIONS)


LOCK_SECONDS = b"60"
"""How long one step of a migration may take before another process may begin."""

Ask = Callable[..., Awaitable[Any]]
"""Sends one command, word by word, and returns its answer."""


async def prepare_schema(ask: Ask, server: str, namespace: str) -> None:
    """Write down the schema of a new namespace, and check that of others.

    :raises SchemaMismatch: another version of ``rio`` made it, or a migration was not finished.
    """
    wanted = current_schema()
    key = schema_key(namespace)
    await ask(b"HSETNX", key, b"version", b"%d" % wanted)
    found, unfinished = await ask(b"HMGET", key, b"version", b"migrating")
    database = _name(server, namespace)
    check_schema(database, int(found), wanted)
    if unfinished is not None:
        raise SchemaMismatch(
            f"{database}: its migration to schema {int(unfinished)} has not finished: wait for it,"
            " or run 'rio migrate' again if it was cut off"
        )


async def read_status(ask: Ask, server: str, namespace: str) -> SchemaStatus:
    """How the keys stand to those of this ``rio``."""
    found = int(await ask(b"HGET", schema_key(namespace), b"version") or 0)
    return SchemaStatus(
        _name(server, namespace),
        found,
        current_schema(),
        await _live_members(ask, namespace),
        tuple(migration.summary for migration in pending(MIGRATIONS, found)),
    )


async def migrate(ask: Ask, server: str, namespace: str) -> None:
    """Do the migrations that the keys need, one after the other, under a lock.

    What was done stays if it is cut off; it goes on when it is called again.

    :raises SchemaMismatch: a server has not ended, a newer ``rio`` made the keys, or another
        process migrates them.
    """
    owner = secrets.token_hex(8).encode()
    lock = _lock_key(namespace)
    if await ask(b"SET", lock, owner, b"NX", b"EX", LOCK_SECONDS) is None:
        raise SchemaMismatch(f"{_name(server, namespace)}: another process migrates it: wait")
    try:
        status = await read_status(ask, server, namespace)
        status.check_newer()
        if status.outdated:
            status.check_quiet()
            await _apply(ask, namespace, status.found)
    finally:
        if await ask(b"GET", lock) == owner:
            await ask(b"DEL", lock)


async def _apply(ask: Ask, namespace: str, found: int) -> None:
    key = schema_key(namespace)
    for schema, migration in enumerate(pending(MIGRATIONS, found), found + 1):
        await ask(b"HSET", key, b"migrating", b"%d" % schema)
        for step in migration.steps:
            await ask(b"EXPIRE", _lock_key(namespace), LOCK_SECONDS)
            await step(ask, namespace)
        await ask(b"HSET", key, b"version", b"%d" % schema)
    await ask(b"HDEL", key, b"migrating")


async def _live_members(ask: Ask, namespace: str) -> tuple[str, ...]:
    table = f"{{{namespace}}}:membership"
    addresses = await ask(b"HGETALL", f"{table}:address".encode())
    statuses = await ask(b"HGETALL", f"{table}:status".encode())
    address_of = dict(zip(addresses[::2], addresses[1::2], strict=True))
    return tuple(
        address_of[generation].decode()
        for generation, status in zip(statuses[::2], statuses[1::2], strict=True)
        if int(status) not in (MemberStatus.LEFT, MemberStatus.DEAD)
    )


def schema_key(namespace: str) -> bytes:
    """The hash that holds the schema of a namespace, and the cluster to which it belongs."""
    return f"{{{namespace}}}:database:schema".encode()


def _lock_key(namespace: str) -> bytes:
    return f"{{{namespace}}}:database:migrating".encode()


def _name(server: str, namespace: str) -> str:
    return f"{server} namespace {namespace!r}"
