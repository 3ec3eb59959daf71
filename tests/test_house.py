"""The rules of the house that a machine can check.

Imports point down, the faces are thin, and data never becomes code.
"""

from __future__ import annotations

import ast
import re
import subprocess
import sys
import tomllib
from graphlib import CycleError, TopologicalSorter
from pathlib import Path
from types import ModuleType

import pytest

import rio

PACKAGE = Path(rio.__file__).parent

# A module imports from lower floors and from its own folder. A folder stands for all that it holds;
# "" is the face of the package. docs/architecture.md shows the same list.
FLOORS = [
    ["errors", "_version"],
    ["_core"],
    ["identity", "type_hints", "backoff", "background", "logs", "runner"],
    ["security"],
    ["transport", "contracts", "observability"],
    ["objects"],
    ["cluster", "storage", "web"],
    ["client"],
    ["server"],
    ["cli", "testing", ""],
    ["__main__"],
]
FLOOR_OF = {room: floor for floor, rooms in enumerate(FLOORS) for room in rooms}
HOMELESS = {"utils", "helpers", "common", "base", "types", "constants"}
CODE_FROM_DATA = {"pickle", "marshal", "shelve", "eval", "exec"}

# "cluster/config.py" is "cluster.config", "cluster/__init__.py" is "cluster", "__init__.py" is ""
FILES = {
    ".".join(path.relative_to(PACKAGE).with_suffix("").parts)
    .removesuffix("__init__")
    .rstrip("."): path
    for suffix in ("pyx", "py")
    for path in sorted(PACKAGE.rglob(f"*.{suffix}"))
}


def room_of(name: str) -> str:
    """The room of a module: its folder, or itself where it lies in none."""
    return name.partition(".")[0]


def imports_of(path: Path) -> set[str]:
    """Full names of what a file imports, wherever the import stands."""
    if path.suffix == ".pyx":
        declarations = path.with_suffix(".pxd")
        text = path.read_text() + (declarations.read_text() if declarations.exists() else "")
        return set(re.findall(r"^\s*(?:from|c?import) +([\w.]+)", text, re.MULTILINE))
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            submodules = {f"{node.module}.{alias.name}" for alias in node.names} & {
                f"rio.{name}" for name in FILES
            }
            found |= submodules or {str(node.module)}
    return found


def imports_within(name: str) -> set[str]:
    """The modules of the package that a module imports, without the package's name."""
    known = {imported[4:] for imported in imports_of(FILES[name]) if imported.startswith("rio.")}
    return {each if each in FILES else each.rpartition(".")[0] for each in known} - {name}


def test_every_module_has_a_floor() -> None:
    assert {room_of(name) for name in FILES} == set(FLOOR_OF)


def test_imports_point_down() -> None:
    upward = [
        f"{name or 'rio'} imports {imported}"
        for name in FILES
        for imported in imports_within(name)
        if room_of(imported) != room_of(name)
        and FLOOR_OF[room_of(imported)] >= FLOOR_OF[room_of(name)]
    ]
    assert upward == []


def test_no_modules_import_each_other_in_a_circle() -> None:
    graph = {name: imports_within(name) for name in FILES}
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        pytest.fail(" -> ".join(error.args[1]))


def test_the_architecture_page_shows_the_floors_as_they_are() -> None:
    page = (PACKAGE.parent.parent / "docs" / "architecture.md").read_text()
    rows = re.findall(r"^\| F\d+ \| ([^|]*) \|", page, re.MULTILINE)
    shown = [re.findall(r"`([\w/.]+)`", row) for row in rows]
    names = {"": "__init__.py"}
    expected = [[names.get(room, room_file(room)) for room in rooms] for rooms in FLOORS]
    assert shown == expected


def room_file(room: str) -> str:
    return f"{room}/" if (PACKAGE / room).is_dir() else f"{room}.py"


def test_every_file_is_named_after_the_thing_it_holds() -> None:
    assert [name for name in FILES if name.rpartition(".")[2] in HOMELESS] == []


def test_data_never_becomes_code() -> None:
    for name, path in FILES.items():
        assert not imports_of(path) & CODE_FROM_DATA, name
        assert not re.search(r"(?<![\w.])(eval|exec)\(", path.read_text()), name


def test_no_task_is_kept_that_may_have_ended_before() -> None:
    """Under the eager task factory ``create_task`` may return a task that has ended."""
    kept = [
        f"{name}, line {statement.lineno}"
        for name, path in FILES.items()
        if path.suffix == ".py"
        for statement in ast.walk(ast.parse(path.read_text()))
        if isinstance(statement, ast.Assign)
        and any(isinstance(target, ast.Attribute) for target in statement.targets)
        and isinstance(statement.value, ast.Call)
        and ast.unparse(statement.value.func).endswith(("create_task", "ensure_future"))
    ]
    assert kept == [], "use background.start()"


def test_no_module_logs_through_a_logger_that_may_raise() -> None:
    """What a filter or a handler of the log raises would skip what follows the call."""
    raising = [
        f"{name}, line {node.lineno}"
        for name, path in FILES.items()
        if path.suffix == ".py" and name != "logs"
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Call) and ast.unparse(node.func).endswith("getLogger")
    ]
    assert raising == [], "use rio.logs.Logger"


@pytest.mark.parametrize("face", ["", "_core"])
def test_a_face_holds_imports_and_all_only(face: str) -> None:
    for statement in ast.parse(FILES[face].read_text()).body:
        is_docstring = isinstance(statement, ast.Expr) and isinstance(statement.value, ast.Constant)
        is_all = (
            isinstance(statement, ast.Assign) and ast.unparse(statement.targets[0]) == "__all__"
        )
        assert is_docstring or is_all or isinstance(statement, ast.Import | ast.ImportFrom), (
            f"line {statement.lineno}"
        )


def test_all_lists_exactly_the_public_names() -> None:
    public = {
        name
        for name, value in vars(rio).items()
        if not name.startswith("_") and not isinstance(value, ModuleType)
    }
    assert sorted(public) == sorted(
        name for name in rio.__all__ if not isinstance(getattr(rio, name), ModuleType)
    )


def test_importing_rio_loads_no_driver_and_touches_no_event_loop_policy() -> None:
    program = """
import asyncio, sys
before = asyncio.events._event_loop_policy
import rio
optional = {"aiosqlite", "sqlite3", "asyncpg", "redis", "hiredis", "uvloop", "rich"}
optional |= {"cryptography", "h11"}
print(optional & set(sys.modules) or "no driver")
print("policy untouched" if asyncio.events._event_loop_policy is before else "policy set")
"""
    run = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )
    assert run.stdout.splitlines() == ["no driver", "policy untouched"]


def test_the_version_is_that_of_the_project() -> None:
    project = tomllib.loads((PACKAGE.parents[1] / "pyproject.toml").read_text())["project"]
    assert rio.__version__ == project["version"]


def test_tools_that_freeze_a_program_see_the_import_of_each_back_end() -> None:
    imported = imports_of(PACKAGE / "storage" / "_urls.py")
    for back_end in ("local", "sqlite", "postgres", "redis", "http"):
        assert f"rio.storage.{back_end}" in imported
    by_name = {name for name, path in FILES.items() if "import_module" in path.read_text()}
    assert by_name == {"cli.registry", "testing._shared_storage"}  # which a user names
