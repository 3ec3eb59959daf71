"""What the application gives to its objects: one value per type."""

from __future__ import annotations

from typing import Any, TypeVar, cast

from rio import type_hints
from rio.errors import ConfigurationError

T = TypeVar("T")


class AppData:
    """One value per type, shared by all objects of a server: a connection pool, a clock, settings.

    A handler or a hook that declares a parameter of this type gets it.
    """

    def __init__(self) -> None:
        self._values: dict[Any, Any] = {}

    def set(self, value: T, as_type: type[T] | None = None) -> None:
        """Keep ``value`` under its own class, or under ``as_type`` (a base class or a protocol).

        An earlier one is replaced.
        """
        self._values[type(value) if as_type is None else as_type] = value

    def get(self, wanted: type[T]) -> T:
        """The value kept under exactly this type.

        :raises ConfigurationError: there is none.
        """
        try:
            return cast(T, self._values[wanted])
        except KeyError:
            kept = (
                ", ".join(sorted(type_hints.short_name(known) for known in self._values))
                or "nothing"
            )
            name = type_hints.full_name(wanted)
            raise ConfigurationError(
                f"AppData holds no {name}: set({type_hints.short_name(wanted)}(...)) before the server "
                f"starts. It holds: {kept}"
            ) from None

    def get_or_default(self, wanted: type[T]) -> T:
        """The value kept under this type; if there is none, one made by calling the type without
        arguments, and kept.
        """
        if wanted not in self._values:
            self._values[wanted] = wanted()
        return cast(T, self._values[wanted])

    def __contains__(self, wanted: object) -> bool:
        return wanted in self._values
