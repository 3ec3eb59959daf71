"""The registry that a command line names."""

from __future__ import annotations

import importlib
import os
import sys
from types import ModuleType
from typing import Any

from rio.errors import ConfigurationError
from rio.objects.registry import Registry


def load_registry(reference: str) -> Registry:
    """Import the registry that ``MODULE:NAME`` refers to; the name is ``registry`` by default.

    The current directory is searched first. An error that the module itself raises while it is
    imported comes through.

    :raises ConfigurationError: there is no such module, it has no such name, or the name is no
        registry.
    """
    module_name, _, name = reference.partition(":")
    name = name or "registry"
    module = _import(module_name, reference)
    found: Any = getattr(module, name, None)
    if isinstance(found, Registry):
        return found
    raise ConfigurationError(f"{_describe(module, name)}; {_suggest(module)}")


def _import(module_name: str, reference: str) -> ModuleType:
    _search_current_directory_first()
    if module_name.endswith(".py"):
        as_module = module_name[:-3].removeprefix("./").replace("/", ".")
        raise ConfigurationError(
            f"{module_name!r} is a file: write its module,"
            f" {reference.replace(module_name, as_module, 1)}"
        )
    if not all(part.isidentifier() for part in module_name.split(".")):
        raise ConfigurationError(
            f"{reference!r} names no registry:"
            " write MODULE:REGISTRY, for example shop.service:registry"
        )
    try:
        return importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        if error.name is not None and f"{module_name}.".startswith(f"{error.name}."):
            raise ConfigurationError(
                f"there is no module {error.name!r} in {os.getcwd()}"
                " nor among the installed packages"
            ) from error
        raise ConfigurationError(f"module {module_name!r} cannot be imported: {error}") from error


def _search_current_directory_first() -> None:
    here = os.getcwd()
    if here not in sys.path:
        sys.path.insert(0, here)


def _describe(module: ModuleType, name: str) -> str:
    """What is found under a name that is no registry."""
    if not hasattr(module, name):
        return f"module {module.__name__!r} has no {name!r}"
    found = type(getattr(module, name)).__name__
    return f"{module.__name__}:{name} is no rio.Registry but of type {found}"


def _suggest(module: ModuleType) -> str:
    """What to write instead."""
    names = [name for name, value in vars(module).items() if isinstance(value, Registry)]
    if names:
        return f"did you mean {' or '.join(f'{module.__name__}:{name}' for name in names)}?"
    return "write in it: registry = rio.Registry(YourObject)"
