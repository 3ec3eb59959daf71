"""What somebody needs who writes a back end is public, and documented."""

from __future__ import annotations

import builtins
import inspect
import re
from collections.abc import Iterator
from typing import Any, get_args, get_type_hints

import pytest

import rio
from rio import contracts, errors
from rio.contracts import ROLES

PUBLIC = {getattr(module, name) for module in (rio, contracts) for name in module.__all__ if name}


def methods_of(contract: type) -> list[Any]:
    return [getattr(contract, name) for name in sorted(contract.__abstractmethods__)]


def types_in(hint: Any) -> Iterator[type]:
    for part in get_args(hint):
        yield from types_in(part)
    if isinstance(hint, type):
        yield hint


@pytest.mark.parametrize("contract", [role.contract for role in ROLES])
def test_every_type_that_a_contract_names_is_public(contract: type) -> None:
    named = {
        each
        for method in methods_of(contract)
        for hint in get_type_hints(method).values()
        for each in types_in(hint)
        if each.__module__.startswith("rio.")
    }
    assert named
    assert named <= PUBLIC


@pytest.mark.parametrize("contract", [role.contract for role in ROLES])
def test_every_error_that_a_contract_names_is_public(contract: type) -> None:
    named = {
        error
        for method in methods_of(contract)
        for error in re.findall(r":raises (\w+):", method.__doc__ or "")
    }
    assert named
    assert [
        each for each in named if not hasattr(errors, each) and not hasattr(builtins, each)
    ] == []


def test_every_contract_and_each_of_its_methods_is_documented() -> None:
    for role in ROLES:
        assert role.contract.__doc__
        assert [each for each in methods_of(role.contract) if not inspect.getdoc(each)] == []
