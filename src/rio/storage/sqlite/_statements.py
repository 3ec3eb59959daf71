"""Statements of :mod:`rio.storage._sql` for several rows at once."""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence
from itertools import chain
from typing import Any

from rio.storage._sql import CLAIM, LOAD_AND_FENCE, RELEASE, SAVE, Row
from rio.storage.sqlite._schema import NEXT_TOKEN

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
    must be ``None``, or the row needs the statement for one row.
    """

    def __init__(self, text: str, key: slice, empty: int | None = None) -> None:
        self._template = text
        self._key = key
        self._empty = empty
        self._texts: dict[int, str] = {}
        """The finished statements, by their number of rows."""

    def takes(self, parameters: Sequence[Any]) -> bool:
        """Whether a row with these parameters can be part of the statement."""
        return self._empty is None or parameters[self._empty] is None

    def key_of(self, parameters: Sequence[Any]) -> tuple[Any, ...]:
        return tuple(parameters[self._key])

    def execute(
        self, connection: sqlite3.Connection, rows: Sequence[Sequence[Any]]
    ) -> list[list[Row]]:
        """For the parameters of each row, what the statement for one row would have returned."""
        text = self._texts.get(len(rows)) or self._text(len(rows), len(rows[0]))
        answers = connection.execute(text, list(chain.from_iterable(rows))).fetchall()
        width = self._key.stop - self._key.start
        found = {answer[:width]: [answer[width:]] for answer in answers}
        return [found.get(self.key_of(parameters), []) for parameters in rows]

    def _text(self, rows: int, parameters: int) -> str:
        marks = "?, " * parameters
        text = self._template.format(
            rows=", ".join(f"({marks}{number})" for number in range(1, rows + 1))
        )
        self._texts[rows] = text
        return text


MULTI_ROW_STATEMENTS = {
    CLAIM.format(next_token=NEXT_TOKEN): MultiRowStatement(
        "INSERT INTO rio_placement AS p (type_name, id, generation, token)"
        " SELECT column1, column2, column3, token_high + column5"
        " FROM (VALUES {rows}), rio_cluster WHERE 1 ORDER BY column5"
        " ON CONFLICT (type_name, id)"
        " DO UPDATE SET generation = excluded.generation, token = excluded.token"
        " WHERE p.generation IS NULL OR p.generation = excluded.generation"
        " RETURNING type_name, id, generation, token",
        key=slice(0, 2),
        empty=3,  # the token to supersede
    ),
    RELEASE: MultiRowStatement(
        "UPDATE rio_placement AS p SET generation = NULL FROM (VALUES {rows})"
        " WHERE p.type_name = column1 AND p.id = column2 AND p.token = column3"
        " AND p.generation IS NOT NULL"
        " RETURNING type_name, id, token",
        key=slice(0, 2),
    ),
    LOAD_AND_FENCE: MultiRowStatement(
        "INSERT INTO rio_state AS s (type_name, id, state_name, version, token, data)"
        " SELECT column1, column2, column3, 0, column4, column5 FROM (VALUES {rows}) WHERE 1"
        " ON CONFLICT (type_name, id, state_name)"
        " DO UPDATE SET token = excluded.token WHERE s.token <= excluded.token"
        " RETURNING type_name, id, state_name, version, data",
        key=slice(0, 3),
    ),
    SAVE: MultiRowStatement(
        "UPDATE rio_state AS s SET version = s.version + 1, data = column1 FROM (VALUES {rows})"
        " WHERE s.type_name = column2 AND s.id = column3 AND s.state_name = column4"
        " AND s.token = column5 AND s.version = column6"
        " RETURNING type_name, id, state_name, version",
        key=slice(1, 4),
    ),
}
"""By the statement for one row."""
