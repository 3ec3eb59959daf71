"""What becomes of a client when its process forks: the parent goes on, the child's copy ends.

Both processes hold the same sockets. If the child went on with them, it would read answers to calls
of the parent, and write what the parent is about to write.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Iterable
from typing import Protocol
from weakref import WeakSet

from rio.transport.client_connection import ClientConnection

FORKED = (
    "this client was opened before its process was forked, and belongs to the parent:"
    " open another one in the child"
)


class Forkable(Protocol):
    """Something that belongs to the process in which it was opened."""

    def disown(self) -> None:
        """This is the child of a fork: touch nothing that the parent uses."""
        ...


_open: WeakSet[Forkable] = WeakSet()


def watch(owner: Forkable) -> None:
    """Tell ``owner`` when it finds itself in the child of a fork."""
    _open.add(owner)


def cut_off(connections: Iterable[ClientConnection]) -> None:
    """Put a socket whose peer has closed in the place of each socket, in this process alone."""
    for connection in connections:
        transport = connection.transport
        shared = None if transport is None else transport.get_extra_info("socket")
        if shared is not None:
            near, far = socket.socketpair()
            far.close()
            near.setblocking(False)
            os.dup2(near.fileno(), shared.fileno(), inheritable=False)
            near.close()


def _disown() -> None:
    for owner in list(_open):
        owner.disown()


if hasattr(os, "register_at_fork"):  # not on Windows, which does not fork
    os.register_at_fork(after_in_child=_disown)
