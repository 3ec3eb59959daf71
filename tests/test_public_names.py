"""What users see: every public name is on a list, and says what it is.

Public are the modules below and, in them, each name without an underscore. A name that is added or
goes away shows up here, in a diff that somebody reads: ``python -m tests.test_public_names`` writes
the list anew.
"""

from __future__ import annotations

import importlib
import inspect
import pkgutil
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

LIST = Path(__file__).with_name("public_names.txt")
PACKAGES = ["rio.contracts", "rio.storage", "rio.testing"]
FACES = ["rio", "rio.errors"]


def public_modules() -> Iterator[ModuleType]:
    yield from map(importlib.import_module, FACES)
    for name in PACKAGES:
        package = importlib.import_module(name)
        yield package
        for found in pkgutil.walk_packages(package.__path__, f"{name}."):
            if not any(part.startswith("_") for part in found.name.split(".")):
                yield importlib.import_module(found.name)


def names_of(module: ModuleType) -> Iterator[tuple[str, Any]]:
    """What ``__all__`` lists or, where there is none, what the module itself defines."""
    for name, value in sorted(vars(module).items()):
        listed = name in getattr(module, "__all__", ())
        own = getattr(value, "__module__", None) == module.__name__
        is_thing = inspect.isclass(value) or inspect.isroutine(value)
        if listed or (not hasattr(module, "__all__") and own and is_thing and name[0] != "_"):
            yield name, value


def members_of(cls: type, public: set[type]) -> Iterator[tuple[str, Any]]:
    """The public attributes that a class adds to those of its public bases.

    The name of a test is its claim, and belongs to nobody else.
    """
    for base in cls.__mro__:
        if base.__module__.startswith("rio") and (base is cls or base not in public):
            for name, value in vars(base).items():
                if not name.startswith(("_", "test_")):
                    yield name, value


def public_names() -> dict[str, Any]:
    """Each public thing under its shortest name, and the members of its classes."""
    things: dict[int, tuple[str, Any]] = {}
    for module in public_modules():
        for name, value in names_of(module):
            things.setdefault(id(value), (f"{module.__name__}.{name}", value))
    public = {value for _, value in things.values() if inspect.isclass(value)}
    found = dict(things.values())
    for name, value in things.values():
        if inspect.isclass(value) and value.__module__.startswith("rio"):
            found |= {f"{name}.{member}": each for member, each in members_of(value, public)}
    return found


def test_the_public_names_are_those_on_the_list() -> None:
    listed = LIST.read_text().splitlines()
    found = sorted(public_names())
    assert [f"+ {name}" for name in found if name not in listed] == []
    assert [f"- {name}" for name in listed if name not in found] == []


def test_help_says_what_each_public_name_is() -> None:
    things = (
        (name, value)
        for name, value in public_names().items()
        if inspect.isclass(value) or inspect.isroutine(value) or isinstance(value, property)
    )
    assert [name for name, value in things if not inspect.getdoc(value)] == []


def test_what_users_hold_shows_nothing_else(tmp_path: Path) -> None:
    """Instances too: an attribute without an underscore is public."""
    import rio

    class Room(rio.ServiceObject): ...

    server = rio.Server(rio.Registry(Room), storage="memory://")
    client = rio.Client("memory://")
    for thing in (server, client, Room()):
        listed = {name for name in dir(type(thing)) if name[0] != "_"}
        assert {name for name in vars(thing) if name[0] != "_"} - listed == set(), thing


if __name__ == "__main__":
    LIST.write_text("\n".join(sorted(public_names())) + "\n")
