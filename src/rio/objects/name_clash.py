"""Two classes with one name on the wire: why, and what to do about it."""

from __future__ import annotations

import sys
from pathlib import Path


def remedy_for_clash(one: type, other: type) -> str:
    """What the author of two classes can do, whose name is the same."""
    script = _module_beside_main(one, other)
    if script is not None:
        return (
            f"module {script} runs as the script and is imported as well, so its classes exist"
            " twice: move them into a module that the script imports"
        )
    return (
        'give one of them another with type_name="..." in its class statement, or all classes of'
        ' its module a prefix, __rio_namespace__ = "..." above them'
    )


def _module_beside_main(one: type, other: type) -> str | None:
    """The name of the module that is ``__main__`` too, if that is why there are two classes."""
    modules = {one.__module__, other.__module__}
    if one.__qualname__ != other.__qualname__ or "__main__" not in modules or len(modules) < 2:
        return None
    (name,) = modules - {"__main__"}
    return name if _runs_as_main(name) else None


def _runs_as_main(name: str) -> bool:
    main, module = sys.modules["__main__"], sys.modules.get(name)
    if main.__spec__ is not None:  # python -m
        return main.__spec__.name == name
    script, file = getattr(main, "__file__", None), getattr(module, "__file__", None)
    return script is not None and file is not None and Path(script).samefile(file)
