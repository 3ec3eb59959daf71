"""A storage that several processes open."""

from __future__ import annotations

from importlib import import_module
from typing import NamedTuple

from rio.storage import Storage


class SharedStorage(NamedTuple):
    """Tells any process how to open the same storage.

    ``function``: ``"module:function"``, a function that returns a :class:`rio.storage.Storage` that
    is not prepared yet. It is called in processes that have imported nothing else. ``arguments``:
    what it is called with.

    ::

        SharedStorage("my_storage:open_my_storage", (str(tmp_path),))
    """

    function: str
    arguments: tuple[str, ...] = ()

    def open(self) -> Storage:
        """Return the storage, not prepared yet.

        :raises ImportError: there is no such module.
        :raises AttributeError: the module has no such function.
        """
        module, _, name = self.function.partition(":")
        storage: Storage = getattr(import_module(module), name)(*self.arguments)
        return storage
