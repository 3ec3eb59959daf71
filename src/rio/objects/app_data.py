"""The values that an application gives to its objects: one for each type."""

from __future__ import annotations

from typing import Any, TypeVar, cast

from rio import type_hints
from rio.errors import ConfigurationError

T = TypeVar("T")


class AppData:
    """The values that the objects of a server share, one for each type: a pool, a clock, settings.

    Fill it before the server starts, and give it to the server as ``app_data=``. A handler or a
    hook that has a parameter of this type gets it; any method can read ``self.app_data``. It stays
    in its process: ``rio`` sends it nowhere.

    That of a server also has what reaches the cluster: its :class:`rio.Client`, and a
    :class:`rio.MessageRouter`.
    """

    def __init__(self) -> None:
        self._values: dict[Any, Any] = {}
        self._provided: dict[Any, Any] = {}
        """What the server adds; what the application has set comes first."""

    def set(self, value: T, as_type: type[T] | None = None) -> None:
        """Keep ``value`` under its own class, or under ``as_type``: a base class or a protocol.

        It replaces the value that was kept under this type before.
        """
        self._values[type(value) if as_type is None else as_type] = value

    def get(self, wanted: type[T]) -> T:
        """The value that is kept under exactly this type, not under a subclass.

        :raises ConfigurationError: there is none.
        """
        for values in (self._values, self._provided):
            if wanted in values:
                return cast(T, values[wanted])
        kept = sorted(type_hints.short_name(known) for known in (*self._values, *self._provided))
        raise ConfigurationError(
            f"AppData holds no {type_hints.full_name(wanted)}:"
            f" call set({type_hints.short_name(wanted)}(...)) before the server starts."
            f" It holds: {', '.join(kept) or 'nothing'}"
        )

    def get_or_default(self, wanted: type[T]) -> T:
        """The value that is kept under this type.

        If there is none, this calls the type without arguments, and keeps the result.

        :raises TypeError: there is none, and the type cannot be called without arguments.
        """
        if wanted not in self:
            self._values[wanted] = wanted()
        return self.get(wanted)

    def __contains__(self, wanted: object) -> bool:
        """Whether there is a value under exactly this type."""
        return wanted in self._values or wanted in self._provided


def of_server(given: AppData | None) -> AppData:
    """The data of one server: what the application has set, now or later, in ``given``, which
    several servers may share.
    """
    made = AppData()
    if given is not None:
        made._values = given._values
    return made


def provide(app_data: AppData, *values: Any) -> None:
    """Add what a server provides, each value under its own class."""
    app_data._provided.update({type(value): value for value in values})
