"""Names on the wire: a module can give all its classes a prefix, and a clash says what to do."""

from __future__ import annotations

import importlib
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest

import rio
from rio.errors import BadRegistration
from rio.identity import type_name_of

MODULE = """
import msgspec
import rio

__rio_namespace__ = {namespace!r}

class NotFound(rio.ApplicationError):
    what: str

class Find(rio.Message[None]):
    what: str

class Named(rio.Message[None], type_name="Named"):
    pass

class Found(msgspec.Struct):
    what: str

class Finder(rio.ServiceObject):
    @rio.handler
    def find(self, message: Find) -> None:
        raise NotFound(message.what)
"""


@pytest.fixture
def modules(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[ModuleType]:
    monkeypatch.syspath_prepend(tmp_path)
    names = ("rio_test_shop", "rio_test_bank")
    for name in names:
        (tmp_path / f"{name}.py").write_text(
            MODULE.format(namespace=name.removeprefix("rio_test_"))
        )
        monkeypatch.delitem(sys.modules, name, raising=False)
    return [importlib.import_module(name) for name in names]


async def test_classes_of_one_name_in_two_modules_live_in_one_program(
    modules: list[ModuleType],
) -> None:
    registry = rio.Registry(*(module.Finder for module in modules))
    assert [record.type_name for record in registry] == ["shop.Finder", "bank.Finder"]
    async with rio.Server(registry, storage="memory://", cluster="local") as server:
        for module in modules:
            with pytest.raises(rio.ApplicationError) as refusal:
                await server.client.send(module.Finder, "a", module.Find("hat"))
            assert type(refusal.value) is module.NotFound


def test_a_name_that_a_class_gives_stands_without_the_prefix(modules: list[ModuleType]) -> None:
    shop, _ = modules
    assert type_name_of(shop.Find) == "shop.Find"
    assert type_name_of(shop.Found) == "shop.Found"
    assert type_name_of(shop.Named) == "Named"


def test_a_namespace_that_is_no_name_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "rio_test_wrong.py").write_text(MODULE.format(namespace=7))
    with pytest.raises(BadRegistration, match="__rio_namespace__ of module rio_test_wrong must be"):
        importlib.import_module("rio_test_wrong")


def test_a_clash_of_two_modules_says_how_to_give_both_a_prefix() -> None:
    class NotFound(rio.ApplicationError, type_name="test_names.NotFound"):
        pass

    with pytest.raises(BadRegistration, match=r'type_name="...".* or .* __rio_namespace__ = "..."'):

        class Other(rio.ApplicationError, type_name="test_names.NotFound"):
            pass

    assert type_name_of(NotFound) == "test_names.NotFound"


SCRIPT = """
import rio

class {name}(rio.{base}):
    pass

if __name__ == "__main__":
    import rio_test_helper
"""

HELPER = """
import __main__
import rio
import rio_test_script

rio.Registry(__main__.Room, rio_test_script.Room)
"""


@pytest.mark.processes
@pytest.mark.parametrize("start", [["rio_test_script.py"], ["-m", "rio_test_script"]])
@pytest.mark.parametrize(
    ("name", "base"), [("Room", "ServiceObject"), ("Gone", "ApplicationError")]
)
def test_a_script_that_its_own_helper_imports_is_told_that_its_classes_exist_twice(
    tmp_path: Path, start: list[str], name: str, base: str
) -> None:
    (tmp_path / "rio_test_script.py").write_text(SCRIPT.format(name=name, base=base))
    (tmp_path / "rio_test_helper.py").write_text(HELPER)
    run = subprocess.run(
        [sys.executable, *start], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert "module rio_test_script runs as the script and is imported as well" in run.stderr
