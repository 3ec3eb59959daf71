"""The file at which a server listens for its own machine: a ``unix:`` address."""

from __future__ import annotations

import errno
import os
import socket
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress

OWNER_ONLY = 0o600
"""Only the user of the server may connect, whatever the folder allows."""


class SocketFile:
    """A listening socket at a path. It takes the place of a file whose server has died, and of
    nothing else.

    ``mode``: who may connect, as in ``chmod``. ``backlog``: the connections that the system holds
    until they are accepted.

    :raises OSError: somebody listens there, something else than a socket is there, or this process
        may not write in the folder.
    """

    def __init__(self, path: str, mode: int, backlog: int) -> None:
        self._path = path
        with _only_one_in(os.path.dirname(path)):
            _make_room(path)
            self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
            try:
                self.socket.bind(path)
                self._identity = _identity_of(path)
                os.chmod(path, mode)  # nobody can connect before it listens
                self.socket.listen(backlog)
            except BaseException:
                self.socket.close()
                raise

    def remove(self) -> None:
        """Remove the file, unless another server has taken the path. Idempotent."""
        with suppress(OSError), _only_one_in(os.path.dirname(self._path)):
            if _identity_of(self._path) == self._identity:
                os.unlink(self._path)


@contextmanager
def _only_one_in(folder: str) -> Iterator[None]:
    """Of several processes that do so, one at a time. It does not wait for anything else."""
    import fcntl  # Windows has none

    number = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(number, fcntl.LOCK_EX)
        yield
    finally:
        os.close(number)


def _make_room(path: str) -> None:
    """Remove the file of a server that has died.

    :raises OSError: it is something else.
    """
    try:
        found = os.lstat(path)
    except FileNotFoundError:
        return
    if not stat.S_ISSOCK(found.st_mode):
        raise OSError(errno.EEXIST, "a file that is no socket is there")
    if _is_served(path):
        raise OSError(errno.EADDRINUSE, "another server listens there")
    os.unlink(path)


def _is_served(path: str) -> bool:
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.setblocking(False)
        try:
            probe.connect(path)
        except (ConnectionRefusedError, FileNotFoundError):
            return False
        except OSError:  # its backlog is full, or it is somebody else's
            return True
        return True


def _identity_of(path: str) -> tuple[int, int]:
    found = os.lstat(path)
    return found.st_dev, found.st_ino
