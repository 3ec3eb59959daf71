"""The base of the records that a storage keeps for an object."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, ClassVar, Literal, dataclass_transform

import msgspec

from rio import type_hints
from rio.errors import BadRegistration
from rio.objects import defaults

MAX_SCHEMA = 2**31 - 1
"""What each storage can hold."""


def _is_schema(number: Any) -> bool:
    return type(number) is int and 1 <= number <= MAX_SCHEMA


def _check_config(cls: msgspec.StructMeta) -> None:
    """Make sure that programs with other versions of the class can read and keep its fields.

    :raises BadRegistration: they cannot.
    """
    config = cls.__struct_config__
    for keyword, why in (
        ("array_like", "a state is stored as a map, so that you can add fields later"),
        (
            "forbid_unknown_fields",
            "a state keeps the fields that newer programs have saved, so that you can go back",
        ),
    ):
        if getattr(config, keyword):
            raise BadRegistration(
                f"state {type_hints.full_name(cls)}: leave out {keyword}=True, because {why}"
            )


# on the metaclass, so that a state may be frozen although its base is not
@dataclass_transform(field_specifiers=(msgspec.field,))
class StateType(msgspec.StructMeta):
    """The class of state classes, which takes the keywords of a class statement.

    ``__init_subclass__`` cannot take them, because ``msgspec`` reads all keywords before it runs.
    """

    def __new__(
        mcls,
        name: str,
        bases: tuple[type, ...],
        namespace: dict[str, Any],
        /,
        *,
        schema: int | None = None,
        **config: Any,
    ) -> Any:
        if schema is not None and not _is_schema(schema):
            raise BadRegistration(f"state {name}: a schema is an int from 1, got {schema!r}")
        namespace["__rio_schema__"] = schema or 0
        namespace["__rio_upcasters__"] = {}
        cls = super().__new__(mcls, name, bases, namespace, **config)
        _check_config(cls)
        defaults.check_struct(cls)
        return cls


class State(msgspec.Struct, metaclass=StateType):
    """The base of the records that a storage keeps for an object.

    Subclass it, and declare fields as in a dataclass, each with a default: an object that was never
    saved starts with the defaults. Then mark a field of the object with :func:`rio.managed_state`::

        class Ledger(rio.State):
            balance: int = 0

    A field can have any type that msgspec encodes as MessagePack. What is saved is checked against
    the types first. A field of the type ``Any`` takes what MessagePack has types for, without
    times: ``None``, bool, int, float, str, bytes, list and dict. A time keeps its offset from UTC,
    in whole minutes, not the name of its zone.

    Fields that the class does not know, because newer code has saved them, stay as they are with
    each save. Those inside nested records do not.

    These are the keywords of the class statement:

    * ``schema=2``: the number of this form of the state, from 1, which a class without it has too.
      Raise it when older saved states do not fit the class, and write an :func:`rio.upcast`. A
      program with a lower number refuses the state: :class:`rio.errors.StateTooNew`. Subclasses do
      not inherit it.
    * the keywords of :class:`msgspec.Struct`, such as ``frozen`` and ``kw_only``, except
      ``array_like`` and ``forbid_unknown_fields``.

    :raises BadRegistration: (when the class is made) it has one of these two keywords, ``schema``
        is no int from 1, or a default can change and would be shared by all objects.
    """

    if TYPE_CHECKING:
        __rio_schema__: ClassVar[int]
        __rio_upcasters__: ClassVar[dict[int, Callable[[dict[str, Any]], dict[str, Any]]]]

        def __init_subclass__(
            cls,
            *,
            schema: int | None = None,
            tag: bool | str | int | Callable[[str], str | int] | None = None,
            tag_field: str | None = None,
            rename: Literal["lower", "upper", "camel", "pascal", "kebab"]
            | Callable[[str], str | None]
            | Mapping[str, str]
            | None = None,
            omit_defaults: bool = False,
            frozen: bool = False,
            eq: bool = True,
            order: bool = False,
            kw_only: bool = False,
            repr_omit_defaults: bool = False,
            gc: bool = True,
            weakref: bool = False,
            dict: bool = False,
            cache_hash: bool = False,
        ) -> None: ...
