"""Annotations, read where their names can be found: a module's globals, or the function in which a
class was written.
"""

from __future__ import annotations

import inspect
import sys
import typing
from collections.abc import Callable, Iterable, Mapping
from types import FrameType
from typing import Any, TypeVar

T = TypeVar("T")
Names = Mapping[str, Any]

_MAX_FRAMES = 16
"""How far up the stack the place of a class statement is looked for; classes are made a few frames
above ours.
"""


class _Annotated:
    """Something that has annotations and nothing else, which is all that
    :func:`typing.get_type_hints` needs.
    """

    def __init__(self, annotation: Any) -> None:
        self.__annotations__ = {"it": annotation}


def of_function(function: Callable[..., Any], local_names: Iterable[Names] = ()) -> dict[str, Any]:
    """The annotations of a function as types, parameters by name and the result as ``"return"``.

    :raises NameError: a name in them is not defined (yet).
    :raises TypeError: they are no types.
    """
    return _first_that_resolves(
        lambda names: typing.get_type_hints(function, localns=names, include_extras=True),
        local_names,
    )


def of_annotation(annotation: Any, module: str, local_names: Iterable[Names] = ()) -> Any:
    """One annotation, as written in ``module``, as a type.

    :raises NameError: a name in it is not defined (yet).
    :raises TypeError: it is no type.
    """
    if isinstance(annotation, type) and typing.get_origin(annotation) is None:
        return annotation
    global_names = vars(sys.modules[module]) if module in sys.modules else {}
    holder = _Annotated(annotation)
    return _first_that_resolves(
        lambda names: typing.get_type_hints(holder, global_names, names, include_extras=True)["it"],
        local_names,
    )


def of_class(cls: type) -> dict[str, Any]:
    """The annotations that the body of ``cls`` itself wrote, unresolved."""
    if sys.version_info >= (3, 14):
        import annotationlib

        return annotationlib.get_annotations(cls, format=annotationlib.Format.FORWARDREF)
    return inspect.get_annotations(cls)


def names_around(cls: type) -> dict[str, Any]:
    """The local names of the function in which ``cls`` is being made; empty for a class at module
    level.

    Call it while the class statement runs.
    """
    frame: FrameType | None = sys._getframe(1)
    for _ in range(_MAX_FRAMES):
        if frame is None or frame.f_globals.get("__name__") == cls.__module__:
            break
        frame = frame.f_back
    else:
        return {}
    return _local_names(frame)


def _local_names(frame: FrameType | None) -> dict[str, Any]:
    """What a statement in this frame sees before the module's globals; a class body also sees the
    function around it.
    """
    if frame is None or frame.f_code.co_name == "<module>":
        return {}
    is_class_body = not frame.f_code.co_flags & inspect.CO_OPTIMIZED
    return {**(_local_names(frame.f_back) if is_class_body else {}), **frame.f_locals}


def qualified(cls: Any) -> str:
    """``module.Class``, or the plain text of an annotation that is no class."""
    if isinstance(cls, type) and typing.get_origin(cls) is None:
        return (
            cls.__qualname__
            if cls.__module__ == "builtins"
            else f"{cls.__module__}.{cls.__qualname__}"
        )
    return str(cls)


def short(annotation: Any) -> str:
    """An annotation as one would write it."""
    if annotation is None or annotation is type(None):
        return "None"
    if isinstance(annotation, type) and typing.get_origin(annotation) is None:
        return annotation.__qualname__.rpartition("<locals>.")[2]
    return str(annotation).replace("typing.", "")


def line_of(function: Callable[..., Any]) -> str:
    """``file:line`` of a function, as editors and terminals link it; empty if it has none."""
    code = getattr(inspect.unwrap(function), "__code__", None)
    return f"{code.co_filename}:{code.co_firstlineno}" if code is not None else ""


def _first_that_resolves(read: Callable[[dict[str, Any]], T], local_names: Iterable[Names]) -> T:
    """Read annotations with the first of these namespaces (and in the end none) that holds their
    names.
    """
    failures: list[Exception] = []
    for names in (*local_names, {}):
        try:
            return read(dict(names))
        except (NameError, AttributeError, TypeError) as failure:
            failures.append(failure)
    undefined = next((failure for failure in failures if not isinstance(failure, TypeError)), None)
    if undefined is None:
        raise failures[0]
    raise undefined if isinstance(undefined, NameError) else NameError(str(undefined))
