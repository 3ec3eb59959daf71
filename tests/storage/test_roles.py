"""The table of roles is the only list of roles.

Everything that names roles follows from the table, or is compared with it here.
"""

from __future__ import annotations

import ast
import inspect
import random
import sys
from abc import abstractmethod
from collections.abc import Iterator
from pathlib import Path
from typing import get_type_hints

import pytest

import rio
from rio.cli.program import parse
from rio.cli.supervisor import environment_of_children
from rio.contracts import ROLES, Role, RoleRow
from rio.errors import ConfigurationError
from rio.storage import Storage, local, open_storage, storage
from rio.storage._urls import open_roles
from rio.storage.local import LocalState
from rio.storage.storage import mix_roles

NAMES = {role.name for role in ROLES}
PACKAGE = Path(rio.__file__).parent
TYPED = {
    ("contracts/roles.py", "ROLES"),
    ("storage/storage.py", "Storage"),
    ("storage/storage.py", "open_storage"),
    ("server/server.py", "__init__"),
}
"""The table, and what type checkers need."""


# --- what type checkers need is compared with the table -------------------------------------------


def test_a_storage_has_a_field_for_each_role() -> None:
    assert get_type_hints(Storage) == {role.name: role.contract for role in ROLES}


def test_open_storage_takes_a_url_for_each_role() -> None:
    parameters = inspect.signature(open_storage).parameters.values()
    assert {each.name for each in parameters if each.kind is each.KEYWORD_ONLY} == NAMES


def test_a_server_takes_a_back_end_for_each_role() -> None:
    hints = get_type_hints(rio.Server.__init__, localns={"random": random})
    assert {name: hints[name] for name in NAMES} == {
        role.name: role.contract | str | None for role in ROLES
    }


def names_in(code: ast.AST) -> set[str]:
    """The names, attributes, keywords and texts in a piece of code."""
    names = set()
    for node in ast.walk(code):
        match node:
            case ast.Name(id=name) | ast.Attribute(attr=name) | ast.arg(arg=name):
                names.add(name)
            case ast.keyword(arg=str(name)) | ast.Constant(value=str(name)):
                names.add(name)
    return names


def pieces_of(module: ast.Module) -> Iterator[tuple[str, ast.AST]]:
    """The functions, the classes without their functions, and the assignments of a module."""
    for node in ast.walk(module):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            yield node.name, node
        elif isinstance(node, ast.ClassDef):
            fields = [each for each in node.body if isinstance(each, ast.Assign | ast.AnnAssign)]
            yield node.name, ast.Module(fields, [])
    for statement in module.body:
        if isinstance(statement, ast.Assign | ast.AnnAssign):
            yield ast.unparse(statement).partition(" ")[0].rstrip(":"), statement


def test_nothing_else_lists_the_roles() -> None:
    lists = {
        (str(path.relative_to(PACKAGE)), name)
        for path in PACKAGE.rglob("*.py")
        for name, code in pieces_of(ast.parse(path.read_text()))
        if names_in(code) >= NAMES
    }
    assert lists == TYPED


# --- an invented fourth role ----------------------------------------------------------------------


class Reminders(Role):
    """When an object wants to be called."""

    @abstractmethod
    async def due(self) -> list[str]: ...


class Diary(Reminders):
    is_open = False

    async def prepare(self) -> None:
        self.is_open = True

    async def close(self) -> None:
        self.is_open = False

    async def due(self) -> list[str]:
        return []


class LargerStorage(Storage, frozen=True):
    reminders: Reminders


@pytest.fixture
def fourth_role(monkeypatch: pytest.MonkeyPatch) -> None:
    """Add a row to the table, and the field that type checkers need."""
    larger = (*ROLES, RoleRow("reminders", Reminders, "when objects want to be called"))
    for module in list(sys.modules.values()):
        if module.__name__.startswith("rio.") and vars(module).get("ROLES") is ROLES:
            monkeypatch.setattr(module, "ROLES", larger)
    monkeypatch.setattr(storage, "Storage", LargerStorage)


@pytest.mark.usefixtures("fourth_role")
async def test_a_fourth_role_is_mixed_prepared_and_closed_like_the_others() -> None:
    diary = Diary()
    mixed, opened = mix_roles("memory://", reminders=diary)
    assert list(mixed)[-1] is diary
    assert opened == list(mixed)[:-1]
    async with mixed:
        assert diary.is_open
    assert not diary.is_open
    with pytest.raises(ConfigurationError, match="no storage for placement, state, reminders"):
        mix_roles(None, membership="memory://")


@pytest.mark.usefixtures("fourth_role")
async def test_a_back_end_without_the_fourth_role_says_so_when_it_is_prepared() -> None:
    reminders = open_roles("memory://")["reminders"]
    assert isinstance(reminders, Reminders)
    with pytest.raises(ConfigurationError, match="memory:// has no reminders"):
        await reminders.prepare()
    await reminders.close()


@pytest.mark.usefixtures("fourth_role")
async def test_a_back_end_with_the_fourth_role_is_opened_by_its_url(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(local, "__all__", [*local.__all__, "Diary"])
    monkeypatch.setattr(local, "Diary", Diary, raising=False)
    assert isinstance(open_roles("memory://")["reminders"], Diary)


@pytest.mark.usefixtures("fourth_role")
def test_a_fourth_role_is_an_option_which_workers_are_given(
    capsys: pytest.CaptureFixture[str],
) -> None:
    url = "sqlite:///reminders.db"
    for given in (
        parse(["run", "m:r", "--storage", "s", "--reminders", url], {}),
        parse(["run", "m:r", "--storage", "s"], {"RIO_REMINDERS": url}),
    ):
        assert given.roles() == {"reminders": url}
        assert environment_of_children(given)["RIO_REMINDERS"] == url
    with pytest.raises(SystemExit):
        parse(["run", "--help"], {})
    assert "--reminders URL" in capsys.readouterr().out


# --- mixing ---------------------------------------------------------------------------------------


async def test_roles_opened_from_a_url_are_told_apart_from_those_that_were_given() -> None:
    state, whole = LocalState(), open_storage("memory://")
    mixed, opened = mix_roles(whole, placement="memory://", state=state)
    assert mixed.membership is whole.membership
    assert mixed.state is state
    assert opened == [mixed.placement]
