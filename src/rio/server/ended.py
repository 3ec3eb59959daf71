"""What stands in for an activation that ends, so that nothing that kept the object can use it."""

from __future__ import annotations

from typing import Any, Protocol

from rio._core.dispatch import Turn, current
from rio.errors import Deactivated
from rio.identity import ObjectId


class HookRunner(Protocol):
    """An activation whose shutdown hooks run."""

    send: Any

    @property
    def turn(self) -> Turn | None: ...


class EndedActivation:
    """The runtime's side of an object that has left, or was dropped: everything raises.

    ``hooks``: the activation whose shutdown hooks run. Their own code can still use it, with the
    tasks that they start; all other code can not. A task belongs to the turn in whose context it
    was made, so the turn of the hooks tells them apart.
    """

    __slots__ = ("_hooks", "_object_id", "_send")

    def __init__(self, object_id: ObjectId, hooks: HookRunner | None = None) -> None:
        self._object_id = object_id
        self._hooks = hooks
        self._send = None if hooks is None else hooks.send

    def send(self, *arguments: Any, **options: Any) -> Any:
        """What also the references send by that the object has made."""
        self.check("send")
        assert self._send is not None
        return self._send(*arguments, **options)

    def __getattr__(self, name: str) -> Any:
        self.check(name)
        return getattr(self._hooks, name)

    def check(self, name: str) -> None:
        """:raises Deactivated: the running code is not that of a shutdown hook."""
        if self._hooks is None or current() is not self._hooks.turn:
            raise Deactivated(
                f"{self._object_id} has left the memory, so this instance cannot use {name} any "
                "more: send the object a message by a client, or let the object own the task, "
                "self.tasks.create(...)"
            )
