"""``docs/regressions.md`` has a row for each fault that was found, and its tests exist."""

from __future__ import annotations

import re
from pathlib import Path
from typing import NamedTuple

import pytest

from tests.regressions.pages import exists

PAGE = Path(__file__).parents[2] / "docs" / "regressions.md"
ROWS = {"A": 14, "B": 21, "C": 26, "D": 2, "E": 17, "F": 25, "G": 17, "H": 19}
"""How many faults of each kind were found."""


class Row(NamedTuple):
    about: str
    right: str
    shown: str

    @property
    def tests(self) -> list[str]:
        return re.findall(r"`([^`]+)`", self.shown)


def rows() -> list[tuple[str, Row]]:
    cells = re.findall(
        r"^\| ([A-H]\d+) \|([^|]*)\|([^|]*)\|([^|]*)\|$", PAGE.read_text(), re.MULTILINE
    )
    return [(name, Row(*(cell.strip() for cell in row))) for name, *row in cells]


def test_each_fault_has_its_row() -> None:
    assert [name for name, _ in rows()] == [
        f"{kind}{number}" for kind, count in ROWS.items() for number in range(1, count + 1)
    ]


@pytest.mark.parametrize(("name", "row"), rows())
def test_a_row_is_open_or_says_what_is_right_and_names_a_test(name: str, row: Row) -> None:
    assert row.about
    if row.shown == "open":
        assert not row.right
    else:
        assert row.right.endswith(".")
        assert re.fullmatch(r"(`[\w/.]+(::\w+)+` ?)+", row.shown)


@pytest.mark.parametrize("test", sorted({test for _, row in rows() for test in row.tests}))
def test_each_test_that_a_row_names_exists(test: str) -> None:
    assert exists(test)
