"""The storages that managed states name for themselves."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, cast
from weakref import WeakKeyDictionary

from rio import type_hints
from rio.contracts.role import Role
from rio.contracts.state import StateStorage, TypedStateStorage
from rio.errors import ConfigurationError
from rio.objects.app_data import AppData
from rio.objects.managed_state import ManagedStateField, OwnStorage
from rio.objects.registry import RegisteredType, Registry
from rio.objects.typed_state import as_bytes

_uses: WeakKeyDictionary[Role, int] = WeakKeyDictionary()
"""How many servers have opened a storage of their :class:`rio.AppData`, which they may share."""


class OwnStates:
    """The storages of one server that fields of its classes name, as storages of bytes.

    :raises ConfigurationError: a field names a type that ``app_data`` has no value of, or two
        fields would share a storage that keeps one state.
    """

    def __init__(self, registry: Registry, app_data: AppData) -> None:
        self._app_data = app_data
        self._taken: dict[Role, ManagedStateField] = {}
        self._lent: list[Role] = []
        self._opened: list[Role] = []
        self._of: dict[ManagedStateField, StateStorage] = {}
        for registered in registry:
            for field in registered.managed_states:
                if field.storage is not None:
                    self._of[field] = self._storage_of(registered, field, field.storage)

    @property
    def storages(self) -> list[StateStorage]:
        """Each once."""
        return list(dict.fromkeys(self._of.values()))

    @property
    def by_field(self) -> Mapping[ManagedStateField, StateStorage]:
        return self._of

    def _storage_of(
        self, registered: RegisteredType, field: ManagedStateField, named: OwnStorage
    ) -> StateStorage:
        if isinstance(named, type):
            named = self._take(registered, field, named)
        if isinstance(named, StateStorage):
            return named
        other = self._taken.setdefault(named, field)
        if other is not field:
            raise ConfigurationError(
                f"{named!r} keeps one state of one class, and {_name(registered, field)} would be"
                f" a second one, besides {other.attribute}: give it a storage of its own"
            )
        return as_bytes(named, field)

    def _take(
        self, registered: RegisteredType, field: ManagedStateField, wanted: type[Any]
    ) -> StateStorage | TypedStateStorage[Any]:
        """The value of ``AppData`` that a field asks for."""
        name = type_hints.short_name(wanted)
        if wanted not in self._app_data:
            raise ConfigurationError(
                f"{_name(registered, field)} is kept by {name}, and the AppData of the server has"
                f" none: call app_data.set({name}(...)) before you make the server"
            )
        storage = cast("StateStorage | TypedStateStorage[Any]", self._app_data.get(wanted))
        if not isinstance(storage, (StateStorage, TypedStateStorage)):
            raise ConfigurationError(
                f"{_name(registered, field)} is kept by {name}, and AppData has {storage!r:.100}"
                " under it, which is no back end of states"
            )
        if storage not in self._lent:
            self._lent.append(storage)
        return storage

    async def open(self) -> None:
        """Prepare them.

        :raises StorageError: one of them cannot be used.
        """
        self._opened, self._lent = self._lent, []
        for lent in self._opened:
            _uses[lent] = _uses.get(lent, 0) + 1
        for role in self.storages:
            await role.prepare()

    def take_unused(self) -> Iterable[Role]:
        """Those that came from ``AppData`` and that no other server uses: they can be closed."""
        opened, self._opened = self._opened, []
        for role in opened:
            _uses[role] -= 1
        return [role for role in opened if not _uses[role]]


def _name(registered: RegisteredType, field: ManagedStateField) -> str:
    return f"{type_hints.full_name(registered.cls)}.{field.attribute}"
