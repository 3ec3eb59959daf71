"""Statements of :mod:`rio.storage._sql` for arrays of their parameters."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from rio.storage import _sql
from rio.storage.postgres._schema import NEXT_TOKEN, TOKENS_ARE_RAISED


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
    return tuple([value.encode() if isinstance(value, str) else value for value in parameters])


# The new token of a row that exists is drawn under the row's lock, so that a claim which had to
# wait cannot bring an older one.
_CLAIM = f"""
    WITH asked AS MATERIALIZED (
        SELECT * FROM unnest($1::bytea[], $2::bytea[], $3::bigint[], $4::bigint[])
            AS a (type_name, id, generation, supersede)
    )
    INSERT INTO rio_placement AS p (type_name, id, generation, token)
    SELECT type_name, id, generation, {NEXT_TOKEN} FROM asked WHERE {TOKENS_ARE_RAISED}
    ON CONFLICT (type_name, id)
    DO UPDATE SET generation = excluded.generation, token = {NEXT_TOKEN}
    WHERE p.generation = excluded.generation
       OR (p.type_name, p.id, p.token) IN (SELECT type_name, id, supersede FROM asked)
    RETURNING type_name, id, generation, token
"""
_LOOKUP = """
    SELECT type_name, id, p.generation, p.token
    FROM unnest($1::bytea[], $2::bytea[]) AS a (type_name, id)
        JOIN rio_placement AS p USING (type_name, id)
"""
_RELEASE = """
    DELETE FROM rio_placement AS p
    USING unnest($1::bytea[], $2::bytea[], $3::bigint[]) AS a (type_name, id, token)
    WHERE p.type_name = a.type_name AND p.id = a.id AND p.token = a.token
    RETURNING p.type_name, p.id, p.token
"""
# Whether there is no row is seen as of the beginning of the statement. A row that is there, and is
# not fenced, belongs to a newer token.
_FENCE = """
    WITH asked AS MATERIALIZED ({asked}), fenced AS (
        UPDATE rio_object AS o SET token = a.token FROM asked AS a
        WHERE o.type_name = a.type_name AND o.id = a.id AND o.token <= a.newest
        RETURNING o.type_name, o.id, o.version, o.state_name, o.schema, o.data, o.has_more
    )
    SELECT {key} version, state_name, schema, data, has_more FROM fenced
    UNION ALL
    SELECT {key} 0, NULL, 0, NULL, FALSE FROM asked AS a
    WHERE NOT EXISTS (SELECT FROM rio_object AS o WHERE o.type_name = a.type_name AND o.id = a.id)
"""
_FENCE_ONE = _FENCE.format(
    asked="SELECT $1::bigint AS token, $2::bytea AS type_name, $3::bytea AS id,"
    " $4::bigint AS newest",
    key="",
)
_FENCE_MANY = _FENCE.format(
    asked="SELECT * FROM unnest($1::bigint[], $2::bytea[], $3::bytea[], $4::bigint[])"
    " AS a (token, type_name, id, newest)",
    key="type_name, id,",
)
_IS_NEW = """
    SELECT a.type_name, a.id, 0, NULL, 0, NULL, FALSE
    FROM unnest($1::bytea[], $2::bytea[]) AS a (type_name, id)
    WHERE NOT EXISTS (SELECT FROM rio_object AS o WHERE o.type_name = a.type_name AND o.id = a.id)
"""
_MORE_STATES = """
    SELECT type_name, id, s.state_name, s.schema, s.data
    FROM unnest($1::bytea[], $2::bytea[]) AS a (type_name, id)
        JOIN rio_state AS s USING (type_name, id)
"""
_SAVE_ONE = """
    UPDATE rio_object AS o SET version = o.version + 1, schema = a.schema, data = a.data
    FROM unnest($1::bigint[], $2::bytea[], $3::bytea[], $4::bytea[], $5::bytea[], $6::bigint[],
                $7::bigint[])
        AS a (schema, data, type_name, id, state_name, token, version)
    WHERE o.type_name = a.type_name AND o.id = a.id AND o.state_name = a.state_name
        AND o.token = a.token AND o.version = a.version
    RETURNING o.type_name, o.id, o.version
"""
_ASK_FIRST = """
    SELECT * FROM unnest($1::bytea[], $2::bigint[], $3::bytea[], $4::bytea[], $5::bytea[],
                         $6::bigint[])
        AS a (state_name, schema, data, type_name, id, token)
"""
# A claim waits for the share of its row, or the share waits for the claim and then sees its token.
# So a takeover is either seen here, or its load sees what is written here.
_OWNED = "SELECT {columns} FROM {asked} rio_placement AS p {condition} FOR SHARE OF p"
_INSERT_FIRST = """
    INSERT INTO rio_object (state_name, schema, data, type_name, id, token, version, has_more)
    SELECT {state}, type_name, id, token, 1, {has_more} FROM asked
    ON CONFLICT DO NOTHING RETURNING {returned}
"""
_FIRST_MANY = "WITH asked AS MATERIALIZED ({asked})" + _INSERT_FIRST.format(
    state="state_name, schema, data", has_more="FALSE", returned="type_name, id, state_name"
)
_FIRST_ONE = "WITH asked AS MATERIALIZED ({asked})" + _INSERT_FIRST.format(
    state="$1::bytea, $2::bigint, $3::bytea", has_more="FALSE", returned="state_name"
)
_OWNED_MANY = _OWNED.format(
    columns="a.*", asked=f"({_ASK_FIRST}) AS a JOIN", condition="USING (type_name, id, token)"
)


def _owned_one(type_name: int) -> str:
    """The row of one object, whose key and token are the parameters from this number on."""
    return _OWNED.format(
        columns="type_name, id, token",
        asked="",
        condition=f"WHERE type_name = ${type_name} AND id = ${type_name + 1}"
        f" AND token = ${type_name + 2}",
    )


_ANYBODY = "SELECT ${0}::bytea AS type_name, ${1}::bytea AS id, ${2}::bigint AS token"

# The parameters of these two: type name, id, token, the names of the states, schemas, data; and the
# version.
_MORE = """, more AS (
        INSERT INTO rio_state (type_name, id, state_name, schema, data)
        SELECT type_name, id, c.state_name, c.schema, c.data
        FROM anchor CROSS JOIN unnest($4::bytea[], $5::bigint[], $6::bytea[])
            AS c (state_name, schema, data)
        WHERE c.state_name <> anchor.state_name
        ON CONFLICT (type_name, id, state_name)
        DO UPDATE SET schema = excluded.schema, data = excluded.data
    )
    SELECT FROM anchor
"""
_FIRST_OF_SEVERAL = (
    "WITH asked AS MATERIALIZED ({asked}), anchor AS ("
    + _INSERT_FIRST.format(
        state="($4::bytea[])[1], ($5::bigint[])[1], ($6::bytea[])[1]",
        has_more="TRUE",
        returned="type_name, id, state_name",
    )
    + ")"
    + _MORE
)
SAVE_FIRST_OF_SEVERAL = _FIRST_OF_SEVERAL.format(asked=_ANYBODY.format(1, 2, 3))
SAVE_FIRST_OF_SEVERAL_AS_OWNER = _FIRST_OF_SEVERAL.format(asked=_owned_one(1))
SAVE_SEVERAL = (
    """
    WITH anchor AS (
        UPDATE rio_object AS o SET version = version + 1, has_more = TRUE,
            schema = coalesce(($5::bigint[])[array_position($4::bytea[], o.state_name)], schema),
            data = coalesce(($6::bytea[])[array_position($4::bytea[], o.state_name)], data)
        WHERE type_name = $1 AND id = $2 AND token = $3 AND version = $7
        RETURNING type_name, id, state_name
    )"""
    + _MORE
)

_ANY_CLAIM = _sql.CLAIM.format(next_token=NEXT_TOKEN)
_ONE_CLAIM = _ANY_CLAIM.replace("token = excluded.token", f"token = {NEXT_TOKEN}").replace(
    f"VALUES (?, ?, ?, {NEXT_TOKEN})",
    f"SELECT ?::bytea, ?::bytea, ?::bigint, {NEXT_TOKEN} WHERE {TOKENS_ARE_RAISED}",
)


def _for_arrays(
    one: str, many: str, lane: str, *, repeatable: bool, key: slice = slice(0, 2)
) -> ArrayStatement:
    return ArrayStatement(number_placeholders(one), many, lane, key, repeatable)


ARRAY_STATEMENTS = {
    _ANY_CLAIM: _for_arrays(_ONE_CLAIM, _CLAIM, "placement", repeatable=True),
    _sql.LOOKUP: _for_arrays(_sql.LOOKUP, _LOOKUP, "placement", repeatable=True),
    _sql.RELEASE: _for_arrays(_sql.RELEASE, _RELEASE, "placement", repeatable=False),
    _sql.FENCE: _for_arrays(_FENCE_ONE, _FENCE_MANY, "state", key=slice(1, 3), repeatable=True),
    _sql.IS_NEW: _for_arrays(_sql.IS_NEW, _IS_NEW, "state", repeatable=True),
    _sql.MORE_STATES: _for_arrays(_sql.MORE_STATES, _MORE_STATES, "state", repeatable=True),
    _sql.SAVE_FIRST: _for_arrays(
        _FIRST_ONE.format(asked=_ANYBODY.format(4, 5, 6)),
        _FIRST_MANY.format(asked=_ASK_FIRST),
        "state",
        key=slice(3, 5),
        repeatable=False,
    ),
    _sql.SAVE_FIRST_AS_OWNER: _for_arrays(
        _FIRST_ONE.format(asked=_owned_one(4)),
        _FIRST_MANY.format(asked=_OWNED_MANY),
        "state",
        key=slice(3, 5),
        repeatable=False,
    ),
    _sql.SAVE_ONE: _for_arrays(
        _sql.SAVE_ONE, _SAVE_ONE, "state", key=slice(2, 4), repeatable=False
    ),
}
"""By the statement for one row of :mod:`rio.storage._sql`."""
