"""What a forked child of a server's process does not keep: its sockets.

A child that kept them would hold the port after the server was killed, and callers would wait for
answers on connections that nobody serves.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from weakref import WeakMethod

Sockets = Callable[[], Iterable[int]]

_servers: set[WeakMethod[Sockets]] = set()


def keep_from_children(sockets: Sockets) -> None:
    """Close in each child that is forked what this method returns: numbers of open sockets."""
    _servers.add(WeakMethod(sockets, _servers.discard))


def _let_go() -> None:
    """Put the null device in the place of each socket. Objects of the child that believe to own the
    number may close it later without harm.
    """
    null = os.open(os.devnull, os.O_RDWR)
    for each in list(_servers):
        sockets = each()
        for number in () if sockets is None else sockets():
            os.dup2(null, number, inheritable=False)
    os.close(null)


if hasattr(os, "register_at_fork"):  # not on Windows, which does not fork
    os.register_at_fork(after_in_child=_let_go)
