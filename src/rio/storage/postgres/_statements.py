"""Statements of :mod:`rio.storage._sql` for arrays of their parameters."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from rio.storage import _sql
from rio.storage.postgres._schema import NEXT_TOKEN


@dataclass(frozen=True, eq=False)
class ArrayStatement:
    """A statement for many rows: each of its parameters is an array.

    It returns, for each row, its key and then what the statement for one row returns.
    """

    one: str
    """The statement for one row."""
    many: str
    """The statement for many rows."""
    lane: str
    """The name of the lane that serves it: statements of one table share one."""
    key: slice
    """Which parameters identify a row. All rows of a statement must have different keys."""
    repeatable: bool
    """Whether it does no harm to do it twice, so that it is sent again if its answer was lost."""


def number_placeholders(statement: str) -> str:
    """The statement with the placeholders of PostgreSQL, ``$1`` and so on."""
    first, *rest = statement.split("?")
    return first + "".join(f"${number}{part}" for number, part in enumerate(rest, 1))


def encode_names(parameters: Sequence[Any]) -> tuple[Any, ...]:
    """The parameters, with texts as the bytes that the tables hold."""
    return tuple(value.encode() if isinstance(value, str) else value for value in parameters)


# The new token of a row that exists is drawn under the row's lock, so that a claim which had to
# wait cannot bring an older one.
_CLAIM = f"""
    WITH asked AS MATERIALIZED (
        SELECT * FROM unnest($1::bytea[], $2::bytea[], $3::bigint[], $4::bigint[])
            AS a (type_name, id, generation, supersede)
    )
    INSERT INTO rio_placement AS p (type_name, id, generation, token)
    SELECT type_name, id, generation, {NEXT_TOKEN} FROM asked
    ON CONFLICT (type_name, id)
    DO UPDATE SET generation = excluded.generation, token = {NEXT_TOKEN}
    WHERE p.generation IS NULL OR p.generation = excluded.generation
       OR (p.type_name, p.id, p.token) IN (SELECT type_name, id, supersede FROM asked)
    RETURNING type_name, id, generation, token
"""
_LOOKUP = """
    SELECT type_name, id, p.generation, p.token
    FROM unnest($1::bytea[], $2::bytea[]) AS a (type_name, id)
        JOIN rio_placement AS p USING (type_name, id)
"""
_RELEASE = """
    UPDATE rio_placement AS p SET generation = NULL
    FROM unnest($1::bytea[], $2::bytea[], $3::bigint[]) AS a (type_name, id, token)
    WHERE p.type_name = a.type_name AND p.id = a.id AND p.token = a.token
        AND p.generation IS NOT NULL
    RETURNING p.type_name, p.id, p.token
"""
_LOAD_AND_FENCE = """
    INSERT INTO rio_state AS s (type_name, id, state_name, version, token, data)
    SELECT type_name, id, state_name, 0, token, data
    FROM unnest($1::bytea[], $2::bytea[], $3::bytea[], $4::bigint[], $5::bytea[])
        AS a (type_name, id, state_name, token, data)
    ON CONFLICT (type_name, id, state_name)
    DO UPDATE SET token = excluded.token WHERE s.token <= excluded.token
    RETURNING type_name, id, state_name, version, data
"""
_SAVE = """
    UPDATE rio_state AS s SET version = s.version + 1, data = a.data
    FROM unnest($1::bytea[], $2::bytea[], $3::bytea[], $4::bytea[], $5::bigint[], $6::bigint[])
        AS a (data, type_name, id, state_name, token, version)
    WHERE s.type_name = a.type_name AND s.id = a.id AND s.state_name = a.state_name
        AND s.token = a.token AND s.version = a.version
    RETURNING s.type_name, s.id, s.state_name, s.version
"""

_ANY_CLAIM = _sql.CLAIM.format(next_token=NEXT_TOKEN)
_ONE_CLAIM = _ANY_CLAIM.replace("token = excluded.token", f"token = {NEXT_TOKEN}")


def _for_arrays(one: str, many: str, lane: str, key: slice, *, repeatable: bool) -> ArrayStatement:
    return ArrayStatement(number_placeholders(one), many, lane, key, repeatable)


ARRAY_STATEMENTS = {
    _ANY_CLAIM: _for_arrays(_ONE_CLAIM, _CLAIM, "placement", slice(0, 2), repeatable=True),
    _sql.LOOKUP: _for_arrays(_sql.LOOKUP, _LOOKUP, "placement", slice(0, 2), repeatable=True),
    _sql.RELEASE: _for_arrays(_sql.RELEASE, _RELEASE, "placement", slice(0, 2), repeatable=False),
    _sql.LOAD_AND_FENCE: _for_arrays(
        _sql.LOAD_AND_FENCE, _LOAD_AND_FENCE, "state", slice(0, 3), repeatable=True
    ),
    _sql.SAVE: _for_arrays(_sql.SAVE, _SAVE, "state", slice(1, 4), repeatable=False),
}
"""By the statement for one row of :mod:`rio.storage._sql`."""
