"""Migrating the databases of a storage to the schema of this ``rio``."""

from __future__ import annotations

from rio.storage._migrations import SchemaStatus
from rio.storage._shared import DatabaseRole, SharedDatabase
from rio.storage.encrypted import EncryptedState
from rio.storage.storage import Storage


async def read_schemas(storage: Storage) -> list[SchemaStatus]:
    """How the tables of each database of a storage stand to those of this ``rio``. The storage need
    not be prepared.

    Roles on other back ends than those of ``rio`` are left out.

    :raises StorageUnavailable: a database did not answer, or there is none.
    """
    return [await database._read_schema_status() for database in _databases_of(storage)]


async def check_found(storage: Storage) -> None:
    """Make sure that each database of a storage has tables, before preparing it creates them.

    :raises StorageUnavailable: a database has none, does not answer, or is not there.
    """
    for status in await read_schemas(storage):
        status.check_found()


async def migrate(storage: Storage) -> None:
    """Migrate the databases of a storage, that of the members first. The storage must not be
    prepared.

    A database whose tables are already those of this ``rio`` is left as it is, so that a migration
    that was cut off goes on when it is called again.

    :raises SchemaMismatch: a server has not ended, or a newer ``rio`` made the tables. Nothing was
        changed in that database.
    :raises StorageUnavailable: a database did not answer; it is not known how far it came.
    """
    schemas = await read_schemas(storage)
    for status in schemas:
        status.check_newer()
    if any(status.outdated for status in schemas):
        for status in schemas:
            status.check_quiet()
    for database in _databases_of(storage):
        await database._migrate()


def _databases_of(storage: Storage) -> list[SharedDatabase]:
    """Each database once, in the order of the roles."""
    roles = [role.inner if isinstance(role, EncryptedState) else role for role in storage]
    databases = [role._shared for role in roles if isinstance(role, DatabaseRole)]
    return list(dict.fromkeys(databases))
