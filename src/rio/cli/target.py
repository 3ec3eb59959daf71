"""Finding the registry that a command line names."""

from __future__ import annotations

import importlib
import os
import sys
from types import ModuleType
from typing import Any

from rio.errors import ConfigurationError
from rio.objects.registry import Registry


def load_registry(target: str) -> Registry:
    """The registry that ``module:name`` names; ``name`` is ``registry`` by default. The current
    directory is searched first.

    :raises ConfigurationError: there is no such module, it has no such name, or that is no
    registry. What the module itself raises while
        it is imported comes through.
    """
    module_name, _, name = target.partition(":")
    name = name or "registry"
    module = _import(module_name, target)
    found: Any = getattr(module, name, None)
    if isinstance(found, Registry):
        return found
    raise ConfigurationError(f"{_what_is_there(module, name)}; {_registries(module)}")


def _import(module_name: str, target: str) -> ModuleType:
    _search_here_first()
    if not all(part.isidentifier() for part in module_name.split(".")):
        raise ConfigurationError(
            f"{target!r} names no registry: write MODULE:REGISTRY, for example shop.service:registry"
        )
    try:
        return importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        if error.name is not None and f"{module_name}.".startswith(f"{error.name}."):
            raise ConfigurationError(
                f"there is no module {error.name!r} in {os.getcwd()} nor among the installed packages"
            ) from error
        raise ConfigurationError(f"module {module_name!r} cannot be imported: {error}") from error


def _search_here_first() -> None:
    here = os.getcwd()
    if here not in sys.path:
        sys.path.insert(0, here)


def _what_is_there(module: ModuleType, name: str) -> str:
    if not hasattr(module, name):
        return f"module {module.__name__!r} has no {name!r}"
    return f"{module.__name__}:{name} is no rio.Registry but of type {type(getattr(module, name)).__name__}"


def _registries(module: ModuleType) -> str:
    names = [name for name, value in vars(module).items() if isinstance(value, Registry)]
    if names:
        return f"did you mean {' or '.join(f'{module.__name__}:{name}' for name in names)}?"
    return "write in it: registry = rio.Registry(YourObject)"
