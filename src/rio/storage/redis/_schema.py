"""The schema of a namespace in Redis: a hash that says which it is, and its migrations."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from typing import Any

from rio.errors import SchemaMismatch, StorageError
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


LOCK_SECONDS = 60
"""How long the lock outlives its process. A migration that goes on renews it."""

Ask = Callable[..., Awaitable[Any]]
"""Sends one command, word by word, and returns its answer."""

# Each script that changes the schema is one step of Redis, so there is nothing between the steps of
# a script that a server, or a migration that was cut off, could meet.
_LOOK = b"""
local schema, lock, addresses, statuses = unpack(KEYS)
local row = redis.call('HMGET', schema, 'version', 'migrating')
local live = {}
for _, generation in ipairs(redis.call('HKEYS', statuses)) do
    local status = redis.call('HGET', statuses, generation)
    if status ~= '4' and status ~= '5' then
        live[#live + 1] = redis.call('HGET', addresses, generation) or 'member ' .. generation
    end
end
"""
_READ = _LOOK + b"return {row, live}"
_BEGIN = (
    _LOOK
    + b"""
local owner, seconds, wanted = ARGV[1], ARGV[2], tonumber(ARGV[3])
if redis.call('EXISTS', lock) == 1 then return {} end
local found, unfinished = tonumber(row[1] or 0), tonumber(row[2] or 0)
if found and unfinished and 0 < found and found < wanted and unfinished <= wanted
    and #live == 0 then
    redis.call('SET', lock, owner, 'EX', seconds)
    redis.call('HSET', schema, 'migrating', string.format('%.0f', found + 1))
end
return {row, live}
"""
)
_OWN = b"""
local schema, lock = unpack(KEYS)
if redis.call('GET', lock) ~= ARGV[1] then return 0 end
redis.call('EXPIRE', lock, ARGV[2])
"""
_RENEW = _OWN + b"return 1"
_ADVANCE = (
    _OWN
    + b"""
redis.call('HSET', schema, 'version', ARGV[3], 'migrating', ARGV[3] + 1)
return 1
"""
)
_FINISH = (
    _OWN
    + b"""
redis.call('HSET', schema, 'version', ARGV[3])
redis.call('HDEL', schema, 'migrating')
return redis.call('DEL', lock)
"""
)
_RELEASE = _OWN + b"return redis.call('DEL', lock)"


async def prepare_schema(ask: Ask, server: str, namespace: str) -> None:
    """Write down the schema of a new namespace, and check that of others. A user that may only read
    can do without the former.

    :raises SchemaMismatch: another version of ``rio`` made it, or a migration was not finished.
    """
    wanted = current_schema()
    key = schema_key(namespace)
    row = await ask(b"HMGET", key, b"version", b"migrating")
    if row == [None, None]:
        await ask(b"HSETNX", key, b"version", b"%d" % wanted)
        row = await ask(b"HMGET", key, b"version", b"migrating")
    check_row(name_of(server, namespace), row, wanted)


def check_row(database: str, row: Sequence[bytes | None], wanted: int) -> None:
    """Refuse keys of another schema than ``wanted``. ``row``: their version, and the version to
    which they are being migrated.

    :raises SchemaMismatch: the keys have another schema, or a migration of them has not finished.
    """
    found, unfinished = _read_row(database, row)
    if unfinished:
        raise SchemaMismatch(
            f"{database}: its migration to schema {unfinished} has not finished: wait for it,"
            " or run 'rio migrate' again if it was cut off"
        )
    check_schema(database, found, wanted)


async def read_status(ask: Ask, server: str, namespace: str) -> SchemaStatus:
    """How the keys stand to those of this ``rio``."""
    row, live = await _run(ask, _READ, _all_keys(namespace))
    return _status_of(name_of(server, namespace), row, live)


async def migrate(ask: Ask, server: str, namespace: str) -> None:
    """Do the migrations that the keys need, one after the other, under a lock.

    What was done stays if it is cut off; it goes on when it is called again. From its beginning to
    its end no server starts.

    :raises SchemaMismatch: a server has not ended, a newer ``rio`` made the keys, or another
        process migrates them.
    """
    database, wanted = name_of(server, namespace), current_schema()
    lock = _Lock(ask, database, namespace)
    answer = await lock.run(_BEGIN, wanted)
    if not answer:
        raise SchemaMismatch(
            f"{database}: another process migrates it: wait. If that was cut off, its lock ends"
            f" within {LOCK_SECONDS} s"
        )
    status = _status_of(database, *answer)
    status.check_newer()
    if not status.outdated:
        return
    status.check_quiet()
    try:
        await _apply(lock, namespace, status.found, wanted)
    except BaseException:
        with suppress(StorageError):  # then it ends by itself
            await lock.run(_RELEASE)
        raise


class _Lock:
    """The lock of a migration, which other processes respect for ``LOCK_SECONDS`` after it was
    renewed.
    """

    def __init__(self, ask: Ask, database: str, namespace: str) -> None:
        self._ask = ask
        self._database = database
        self._keys = _all_keys(namespace)
        self._owner = secrets.token_hex(8)
        self._clock = asyncio.get_running_loop().time
        self._renewed = self._clock()

    async def ask(self, *words: bytes) -> Any:
        """Send one command of a step. A lock that is no longer new is renewed before it.

        :raises SchemaMismatch: the lock was lost.
        """
        if self._clock() - self._renewed > LOCK_SECONDS / 6:
            await self.write(_RENEW)
        return await self._ask(*words)

    async def write(self, script: bytes, *values: int) -> None:
        """Run a script that does nothing unless this process has the lock, and renews it.

        :raises SchemaMismatch: the lock was lost.
        """
        sent = self._clock()
        if not await self.run(script, *values):
            raise SchemaMismatch(
                f"{self._database}: this migration was stopped, because it paused for more than"
                f" {LOCK_SECONDS} s and lost its lock, so that another process may migrate: wait"
                " for that, or run 'rio migrate' again"
            )
        self._renewed = sent

    async def run(self, script: bytes, *values: int) -> Any:
        return await _run(self._ask, script, self._keys, self._owner, LOCK_SECONDS, *values)


async def _apply(lock: _Lock, namespace: str, found: int, wanted: int) -> None:
    for schema, migration in enumerate(pending(MIGRATIONS, found), found + 1):
        for step in migration.steps:
            await lock.write(_RENEW)
            await step(lock.ask, namespace)
        await lock.write(_FINISH if schema == wanted else _ADVANCE, schema)


def _status_of(database: str, row: Sequence[bytes | None], live: Sequence[bytes]) -> SchemaStatus:
    found, unfinished = _read_row(database, row)
    if unfinished > current_schema():  # only a newer rio can go on with it
        found = unfinished
    return SchemaStatus(
        database,
        found,
        current_schema(),
        tuple(address.decode(errors="replace") for address in live),
        tuple(migration.summary for migration in pending(MIGRATIONS, found)),
    )


def _read_row(database: str, row: Sequence[bytes | None]) -> tuple[int, int]:
    found, unfinished = (value or b"0" for value in row)
    if not (found.isdigit() and unfinished.isdigit()):
        raise SchemaMismatch(
            f"{database}: its schema is none of rio: version {found!r}, migrating {unfinished!r}"
        )
    return int(found), int(unfinished)


def _run(ask: Ask, script: bytes, keys: Sequence[bytes], *values: str | int) -> Awaitable[Any]:
    words = (str(value).encode() for value in values)
    return ask(b"EVAL", script, b"%d" % len(keys), *keys, *words)


def _all_keys(namespace: str) -> tuple[bytes, ...]:
    """The keys that the scripts take."""
    names = "database:migrating", "membership:address", "membership:status"
    return schema_key(namespace), *(key_of(namespace, name) for name in names)


def schema_key(namespace: str) -> bytes:
    """The hash that holds the schema of a namespace, and the cluster to which it belongs."""
    return key_of(namespace, "database:schema")


def key_of(namespace: str, name: str) -> bytes:
    """A key of a namespace. It begins with the namespace, so that an ACL can name all of them.

    All have one hash tag: a script that saves an object looks at its placement, and a Redis Cluster
    runs no script over several slots.
    """
    return f"{namespace}:{{{namespace}}}:{name}".encode()


def name_of(server: str, namespace: str) -> str:
    """A namespace as errors name it."""
    return f"{server} namespace {namespace!r}"
