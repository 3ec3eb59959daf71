"""Statements of :mod:`rio.storage._sql` for several rows at once."""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence
from itertools import chain
from typing import Any

from rio.storage._sql import (
    CLAIM,
    FENCE,
    RELEASE,
    SAVE_FIRST,
    SAVE_FIRST_AS_OWNER,
    SAVE_ONE,
    Row,
)
from rio.storage.sqlite._schema import NEXT_AFTER, NEXT_TOKEN

MAX_ROWS = 64
"""Rows of one statement at most. A power of two, like every number of rows that is used, so that
SQLite prepares only a few different statements.
"""


class MultiRowStatement:
    """A statement for several rows. It returns, for each row, its key and then what the statement
    for one row returns.

    ``text``: the statement, with ``{rows}`` where the rows belong. A row has the parameters of the
    statement for one row, in their order, and then its number. ``key``: which of the parameters
    identify a row; all rows of a statement must have different keys. ``empty``: a parameter that
    must be ``None``, or the row needs the statement for one row. ``kind``: which operation the
    statement is, or begins. ``alone``: the statement for one row without what it returns, where
    that only says whether it has done something; SQLite takes twice as long to return it.
    """

    def __init__(
        self,
        kind: str,
        text: str,
        key: slice,
        *,
        empty: int | None = None,
        alone: str | None = None,
    ) -> None:
        self._template = text
        self.kind = kind
        self.alone = alone
        self.key = key
        self._empty = empty
        self._texts: dict[int, str] = {}
        """The finished statements, by their number of rows."""

    def takes(self, rows: Sequence[tuple[Any, ...]]) -> bool:
        """Whether rows with these parameters can be part of the statement."""
        empty = self._empty
        return empty is None or not [row for row in rows if row[empty] is not None]

    def execute(
        self, connection: sqlite3.Connection, rows: Sequence[tuple[Any, ...]]
    ) -> list[list[Row]]:
        """For the parameters of each row, what the statement for one row would have returned."""
        text = self._texts.get(len(rows)) or self._text(len(rows), len(rows[0]))
        answers = connection.execute(text, list(chain.from_iterable(rows))).fetchall()
        key = self.key
        width = key.stop - key.start
        found = {answer[:width]: [answer[width:]] for answer in answers}
        return [found.get(parameters[key], []) for parameters in rows]

    def _text(self, rows: int, parameters: int) -> str:
        marks = "?, " * parameters
        text = self._template.format(
            rows=", ".join(f"({marks}{number})" for number in range(1, rows + 1))
        )
        self._texts[rows] = text
        return text


def _without_answer(statement: str) -> str:
    return statement.partition(" RETURNING ")[0]


_NEXT_TOKEN = NEXT_AFTER.format(high="token_high")
_SAVE_FIRST = (
    "INSERT INTO rio_object (state_name, schema, data, type_name, id, token, version, has_more)"
    " SELECT column1, column2, column3, column4, column5, column6, 1, FALSE FROM {source} WHERE 1"
    " ON CONFLICT DO NOTHING RETURNING type_name, id, state_name"
)

MULTI_ROW_STATEMENTS = {
    CLAIM.format(next_token=NEXT_TOKEN): MultiRowStatement(
        "_claim",
        "INSERT INTO rio_placement AS p (type_name, id, generation, token)"
        f" SELECT column1, column2, column3, {_NEXT_TOKEN} + column5 - 1"
        " FROM (VALUES {rows}), rio_cluster WHERE 1 ORDER BY column5"
        " ON CONFLICT (type_name, id)"
        " DO UPDATE SET generation = excluded.generation, token = excluded.token"
        " WHERE p.generation = excluded.generation"
        " RETURNING type_name, id, generation, token",
        key=slice(0, 2),
        empty=3,  # the token to supersede
    ),
    RELEASE: MultiRowStatement(
        "_release",
        "DELETE FROM rio_placement WHERE (type_name, id, token) IN"
        " (SELECT column1, column2, column3 FROM (VALUES {rows}))"
        " RETURNING type_name, id, token",
        key=slice(0, 2),
        alone=_without_answer(RELEASE),
    ),
    FENCE: MultiRowStatement(
        "_load",
        "UPDATE rio_object AS o SET token = column1 FROM (VALUES {rows})"
        " WHERE o.type_name = column2 AND o.id = column3 AND o.token <= column4"
        " RETURNING type_name, id, version, state_name, schema, data, has_more",
        key=slice(1, 3),
    ),
    SAVE_FIRST: MultiRowStatement(
        "_save_first",
        _SAVE_FIRST.format(source="(VALUES {rows})"),
        key=slice(3, 5),
        alone=_without_answer(SAVE_FIRST),
    ),
    SAVE_FIRST_AS_OWNER: MultiRowStatement(
        "_save_first",
        _SAVE_FIRST.format(
            source="(VALUES {rows}) CROSS JOIN rio_placement AS p"
            " ON p.type_name = column4 AND p.id = column5 AND p.token = column6"
        ),
        key=slice(3, 5),
        alone=_without_answer(SAVE_FIRST_AS_OWNER),
    ),
    SAVE_ONE: MultiRowStatement(
        "_save_one",
        "UPDATE rio_object AS o SET version = o.version + 1, schema = column1, data = column2"
        " FROM (VALUES {rows})"
        " WHERE o.type_name = column3 AND o.id = column4 AND o.state_name = column5"
        " AND o.token = column6 AND o.version = column7"
        " RETURNING type_name, id, version",
        key=slice(2, 4),
        alone=_without_answer(SAVE_ONE),
    ),
}
"""By the statement for one row."""
