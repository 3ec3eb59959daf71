"""From the tables of an older ``rio`` to those of this one.

A back end keeps the tables of schema 1, and a migration for each schema after it. A new database
gets all of them at once, so there is one description of the newest tables. A database that exists
is never migrated on the way: ``rio migrate`` does that, while no server runs.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

from rio.errors import SchemaMismatch, StorageUnavailable


class Migration(NamedTuple):
    """One step from a schema to the next."""

    summary: str
    """What it does, for people: ``add the column expires to rio_object``."""
    steps: tuple[Any, ...]
    """SQL statements; on Redis, functions that are given the database's lane and may be called
    again after a migration that was cut off.
    """


class SchemaStatus(NamedTuple):
    """How the tables of a database stand to those of this ``rio``."""

    database: str
    """The database, without its password."""
    found: int
    """The schema of its tables; 0 if it has none."""
    wanted: int
    """The schema of this ``rio``."""
    live_members: tuple[str, ...]
    """The addresses of servers that have not ended, as far as this database knows."""
    summaries: tuple[str, ...]
    """What the migrations from ``found`` to ``wanted`` do, one after the other."""

    @property
    def outdated(self) -> bool:
        """Whether there are tables that must be migrated."""
        return 0 < self.found < self.wanted

    def check_found(self) -> None:
        """:raises StorageUnavailable: there are no tables."""
        if not self.found:
            raise StorageUnavailable(
                f"{self.database}: there is nothing of rio: has a server been started on it?"
            )

    def check_newer(self) -> None:
        """:raises SchemaMismatch: a newer ``rio`` made the tables."""
        if self.found > self.wanted:
            check_schema(self.database, self.found, self.wanted)

    def check_quiet(self) -> None:
        """:raises SchemaMismatch: a server has not ended."""
        if self.live_members:
            raise SchemaMismatch(
                f"{self.database}: {', '.join(self.live_members)} has not ended, and a server that"
                " runs would go on with the old tables: stop all servers, then migrate. After a"
                " crash of all servers, start one of the old version and stop it"
            )


def newest_schema(migrations: Sequence[Migration]) -> int:
    """The schema that a back end with these migrations works on."""
    return 1 + len(migrations)


def pending(migrations: Sequence[Migration], found: int) -> Sequence[Migration]:
    """The migrations that tables of the schema ``found`` need."""
    return migrations[found - 1 :] if found else ()


def check_schema(database: str, found: int, wanted: int) -> None:
    """Refuse tables of another schema than ``wanted``.

    :raises SchemaMismatch: the tables have the schema ``found``.
    """
    if found == wanted:
        return
    if found > wanted:
        problem = f"newer than schema {wanted} of this rio: upgrade rio"
    elif found > 0:
        problem = f"older than schema {wanted}: stop all servers, then run 'rio migrate'"
    else:
        problem = "which no rio has made: choose another database"
    raise SchemaMismatch(f"{database}: its tables have schema {found}, {problem}")
