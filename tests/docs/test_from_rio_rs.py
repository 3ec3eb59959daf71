"""The page for those who come from rio-rs has all of its names, and leads to what is there."""

from __future__ import annotations

import re
from textwrap import indent
from typing import NamedTuple

import pytest

import rio
import rio.storage
from tests.docs.test_docs import LINK, ROOT, blocks_of, leads_somewhere
from tests.regressions.pages import exists

PAGE = ROOT / "docs" / "from-rio-rs.md"
TEXT = PAGE.read_text()
EXAMPLES = (
    "ping-pong",
    "presence",
    "metric-aggregator",
    "black-jack",
    "custom-storage",
    "observability",
)

ORIGINAL = """
AdminCommands AdminSender AppData AppDataExt ClientBuilder ClientBuilderError
ClientConnectionManager ClientError ClusterProvider ClusterProviderServeError Handler HandlerError
HttpMembershipStorage IdentifiableType InternalClientSender LifecycleMessage LoadStateError
LocalClusterProvider LocalObjectPlacement LocalState LocalStorage ManagedState Member
MembershipError MembershipStorage Message MessageRouter NoopError ObjectId ObjectPlacement
ObjectStateManager PeerToPeerClusterProvider PostgresMembershipStorage PostgresObjectPlacement
PostgresState RedisMembershipStorage RedisObjectPlacement RedisState Registry RequestError
ResponseError SendCommand Server ServerBuilderError ServerError ServiceObject
ServiceObjectLifeCycleError ServiceObjectStateLoad SqlMigrations SqliteMembershipStorage
SqliteObjectPlacement SqliteState State StateLoader StateSaver SubscriptionResponse TypeName
WithId Returns Error add_type add_handler make_registry prepare bind run send subscribe
timeout_millis get get_or_default set before_load load after_load before_shutdown shutdown
Shutdown ServerExit interval_secs num_failures_threshold interval_secs_threshold
limit_monitored_members drop_inactive_after_secs
"""
"""The public names of rio-rs 0.7.2."""


class Row(NamedTuple):
    number: str
    original: str
    here: str
    pages: str
    shown: str


def part(heading: str) -> str:
    """What stands under a heading, up to the next one of its kind."""
    _, _, rest = TEXT.partition(f"\n## {heading}\n")
    assert rest, heading
    return rest.partition("\n## ")[0]


def rows() -> list[Row]:
    table = part("Everything that rio-rs has")
    return [
        Row(*(cell.strip() for cell in line.strip("|").split(" | ")))
        for line in table.splitlines()
        if re.match(r"\| \d+ \|", line)
    ]


def test_the_table_ends_the_page_and_has_each_row() -> None:
    assert [row.number.strip("| ") for row in rows()] == [str(n) for n in range(1, 25)]
    assert TEXT.rstrip().endswith("|")
    assert TEXT.rindex("\n## ") == TEXT.index("\n## Everything that rio-rs has\n")


@pytest.mark.parametrize("row", rows(), ids=lambda row: row.number.strip("| "))
def test_each_row_leads_to_its_page_and_its_tests(row: Row) -> None:
    assert row.original
    assert row.here
    links = LINK.findall(row.pages)
    assert links
    assert all(leads_somewhere(PAGE, link) for link in links)
    tests = re.findall(r"`([^`]+)`", row.shown)
    assert tests
    assert [test for test in tests if not exists(test)] == []


def test_each_name_of_the_original_stands_on_the_page() -> None:
    cells = [row.original for row in rows()]
    cells += re.findall(r"^\| ([^|]*) \|", part("Errors, one by one"), re.MULTILINE)
    named = {
        word
        for cell in cells
        for span in re.findall(r"`([^`]+)`", cell)
        for word in re.findall(r"\w+", span)
    }
    assert [name for name in ORIGINAL.split() if name not in named] == []


def test_each_public_name_answers_one_of_the_original_or_is_listed_as_new() -> None:
    answers = names_in("\n".join(row.here for row in rows()))
    new = names_in(part("What rio-rs has no word for"))
    public = {f"rio.{name}" for name in rio.__all__}
    public |= {f"rio.storage.{name}" for name in rio.storage.__all__ if name not in rio.__all__}
    assert public - answers - new == set(), "has rio-rs a word for it? Then add it to its row"
    assert answers & new == set()


def names_in(text: str) -> set[str]:
    return set(re.findall(r"\brio(?:\.\w+)+", text))


@pytest.mark.parametrize("name", EXAMPLES)
def test_an_example_stands_there_in_both_languages(name: str) -> None:
    _, _, rest = part("The six examples").partition(f"\n### {name}\n")
    section = rest.partition("\n### ")[0]
    assert "```rust\n" in section
    assert "```python\n" in section
    assert f"(../examples/{name.replace('-', '_')}/" in section


def test_the_python_is_that_of_the_examples() -> None:
    lines = TEXT.splitlines()
    for block in blocks_of(PAGE):
        if block.language == "python":
            before = "\n".join(lines[: block.line - 1])
            file = PAGE.parent / re.findall(r"\]\((\.\./examples/\w+/\w+\.py)\)", before)[-1]
            assert any(
                indent(tight(block.text), depth * "    ") in tight(file.read_text())
                for depth in range(3)
            ), f"line {block.line} is not in {file.name}"


def tight(code: str) -> str:
    """Code without empty lines: how many stand between two functions depends on their depth."""
    return re.sub(r"\n\n+", "\n", code)
