"""Annotations as types, and the names of classes and functions as error texts show them.

An annotation is read where its names can be found: in the globals of its module, or in the function
in which its class was written.
"""

from __future__ import annotations

import inspect
import re
import sys
import typing
from collections.abc import Callable, Iterable, Mapping
from types import FrameType
from typing import Any, TypeVar

T = TypeVar("T")
Namespace = Mapping[str, Any]

_MAX_FRAMES = 16
"""How many frames up the stack :func:`names_around` looks for the class statement, which is only a
few frames away.
"""


class _Holder:
    """Has annotations and nothing else: :func:`typing.get_type_hints` needs no more."""

    def __init__(self, annotation: Any) -> None:
        self.__annotations__ = {"it": annotation}


def of_function(
    function: Callable[..., Any], local_names: Iterable[Namespace] = ()
) -> dict[str, Any]:
    """The annotations of a function as types: parameters by name, the result as ``"return"``.

    :raises NameError: a name in them is not defined (yet).
    :raises TypeError: an annotation is not a type.
    """
    return _resolve(
        lambda names: typing.get_type_hints(function, localns=names, include_extras=True),
        local_names,
    )


def of_annotation(annotation: Any, module: str, local_names: Iterable[Namespace] = ()) -> Any:
    """An annotation that was written in ``module``, as a type.

    :raises NameError: a name in it is not defined (yet).
    :raises TypeError: it is not a type.
    """
    if isinstance(annotation, type) and typing.get_origin(annotation) is None:
        return annotation
    global_names = vars(sys.modules[module]) if module in sys.modules else {}
    holder = _Holder(annotation)
    return _resolve(
        lambda names: typing.get_type_hints(holder, global_names, names, include_extras=True)["it"],
        local_names,
    )


def of_class(cls: type) -> dict[str, Any]:
    """The annotations in the body of ``cls``, without inherited ones, and not read as types yet."""
    if sys.version_info >= (3, 14):
        import annotationlib

        return annotationlib.get_annotations(cls, format=annotationlib.Format.FORWARDREF)
    return inspect.get_annotations(cls)


def is_class_variable(annotation: Any) -> bool:
    """Whether an annotation, which may not be read as a type yet, says ``ClassVar``."""
    if isinstance(annotation, typing.ForwardRef):
        annotation = annotation.__forward_arg__
    if isinstance(annotation, str):
        return re.match(r"([\w.]+\.)?ClassVar\b", annotation) is not None
    return annotation is typing.ClassVar or typing.get_origin(annotation) is typing.ClassVar


def names_around(cls: type) -> dict[str, Any]:
    """The local names of the function in which ``cls`` is being made.

    The result is empty for a class at module level. Call this while the class statement runs.
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
    """The names that a statement in this frame sees before the globals of its module.

    A class body also sees the names of the function around it.
    """
    if frame is None or frame.f_code.co_name == "<module>":
        return {}
    is_class_body = not frame.f_code.co_flags & inspect.CO_OPTIMIZED
    return {**(_local_names(frame.f_back) if is_class_body else {}), **frame.f_locals}


def full_name(cls: Any) -> str:
    """``module.Class``; for an annotation that is not a class, its text."""
    if isinstance(cls, type) and typing.get_origin(cls) is None:
        return (
            cls.__qualname__
            if cls.__module__ == "builtins"
            else f"{cls.__module__}.{cls.__qualname__}"
        )
    return str(cls)


def short_name(annotation: Any) -> str:
    """An annotation as its author would write it: ``Class``, ``None``, ``dict[str, int]``."""
    if annotation is None or annotation is type(None):
        return "None"
    if isinstance(annotation, type) and typing.get_origin(annotation) is None:
        return annotation.__qualname__.rpartition("<locals>.")[2]
    return str(annotation).replace("typing.", "")


def are_same(one: Any, other: Any) -> bool:
    """Whether two types are the same, however they are written: ``Dict[str, int]`` and
    ``dict[str, int]`` are.
    """
    if one == other:
        return True
    origin, arguments = typing.get_origin(one), typing.get_args(one)
    others = typing.get_args(other)
    return (
        origin is not None
        and origin is typing.get_origin(other)
        and len(arguments) == len(others)
        and all(map(are_same, arguments, others))
    )


def line_of(function: Callable[..., Any]) -> str:
    """``file:line`` of a function, which editors and terminals turn into a link.

    The result is empty for a function that was not written in Python.
    """
    code = getattr(inspect.unwrap(function), "__code__", None)
    return f"{code.co_filename}:{code.co_firstlineno}" if code is not None else ""


def _resolve(read: Callable[[dict[str, Any]], T], local_names: Iterable[Namespace]) -> T:
    """Read annotations with the first of these namespaces that holds their names.

    The last attempt is made with no local names at all.
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
