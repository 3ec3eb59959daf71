"""Which file a path names: whether it is still the one that was opened, and whether others open it
under another name.

SQLite keeps the newest commits beside the file, in ``-wal`` and ``-shm`` of the same name. So two
names of one file, by a hard link or a bind mount, do not see each other's commits; and a file that
was deleted or replaced goes on taking commits that nobody will ever read.
"""

from __future__ import annotations

import os
import struct
import threading
from typing import Any, NamedTuple

from rio.errors import ConfigurationError, StorageUnavailable

fcntl: Any
try:
    import fcntl
except ImportError:  # Windows
    fcntl = None

_CAN_LOCK = hasattr(fcntl, "F_OFD_SETLK")
"""Whether a lock can belong to a descriptor, and not to the process: on Linux."""

_FIRST_BYTE = 1 << 40
"""Where the bytes begin that say under which name a file is open: far behind its end, and behind
the bytes that SQLite locks.
"""
_MOST_UNUSED = 64
"""Descriptors of files that no database uses any more, at most."""


class FileId(NamedTuple):
    """What a path names, whatever the path is."""

    device: int
    inode: int

    @classmethod
    def of(cls, path: str) -> FileId | None:
        """``None``: there is no file."""
        try:
            found = os.stat(path)
        except OSError:
            return None
        return cls(found.st_dev, found.st_ino)

    def is_at(self, path: str) -> bool:
        """Whether a path names it."""
        try:
            found = os.stat(path)
        except OSError:
            return False
        return found.st_ino == self.inode and found.st_dev == self.device


class _Use(NamedTuple):
    """A file that this process has open. The lock of a byte says under which name."""

    descriptor: int
    byte: int
    databases: int


_uses: dict[FileId, _Use] = {}
"""Every file that was opened. Closing any descriptor of a file drops the locks that SQLite holds on
it in this process, so a descriptor is kept after its last use.
"""
_changing = threading.Lock()


def check_name(path: str) -> None:
    """Look whether this process may open ``path``.

    :raises ConfigurationError: it has opened the file under another name.
    """
    path = os.path.realpath(path)
    file = FileId.of(path)
    with _changing:
        use = None if file is None else _uses.get(file)
    if use is not None and use.databases and use.byte != _byte_of(path):
        raise _other_name(path)


def hold_name(path: str) -> FileId:
    """Note that this process has opened ``path`` with SQLite. Returns what :func:`release_name`
    takes.

    :raises ConfigurationError: the file is open under another name.
    :raises StorageUnavailable: the file has just been deleted.
    """
    path = os.path.realpath(path)  # SQLite does the same
    file, byte = FileId.of(path), _byte_of(path)
    if file is None or byte is None:
        raise StorageUnavailable(f"{path}: it was deleted while it was opened")
    with _changing:
        use = _uses.pop(file, None) or _Use(os.open(path, os.O_RDONLY), byte, 0)
        _uses[file] = use  # the last one
        if not use.databases:
            _lock(use.descriptor, byte)
        elif use.byte != byte:
            raise _other_name(path)
        _uses[file] = _Use(use.descriptor, byte, use.databases + 1)
    if _is_locked_elsewhere(use.descriptor, byte):
        release_name(file)
        raise _other_name(path)
    return file


def release_name(file: FileId) -> None:
    """Forget one use of a file. Call it before SQLite closes it, which may delete ``-shm``."""
    with _changing:
        descriptor, byte, databases = _uses[file]
        _uses[file] = _Use(descriptor, byte, databases - 1)
        if databases == 1:
            _unlock(descriptor)
            _close_oldest()


def _byte_of(path: str) -> int | None:
    """The byte that stands for a name. All who open the file under one name share one ``-shm``."""
    beside = FileId.of(f"{path}-shm")
    return None if beside is None else _FIRST_BYTE + beside.inode % _FIRST_BYTE


def _close_oldest() -> None:
    unused = [file for file, use in _uses.items() if not use.databases]
    for file in unused[:-_MOST_UNUSED]:
        os.close(_uses.pop(file).descriptor)


def _other_name(path: str) -> ConfigurationError:
    return ConfigurationError(
        f"{path}: this file is open under another name (a hard link, or a mount of the file), and"
        " under two names it is two databases: give all the same name, and mount its directory"
        " instead of the file"
    )


# --- locks of one byte, which belong to the descriptor --------------------------------------------

_FORMAT = "hhqqixxxx"
"""``struct flock``: type, whence, start, length, process."""


def _lock(descriptor: int, byte: int) -> None:
    if _CAN_LOCK:
        fcntl.fcntl(descriptor, fcntl.F_OFD_SETLK, _pack(fcntl.F_RDLCK, byte, 1))


def _unlock(descriptor: int) -> None:
    if _CAN_LOCK:
        fcntl.fcntl(descriptor, fcntl.F_OFD_SETLK, _pack(fcntl.F_UNLCK, _FIRST_BYTE, 0))


def _is_locked_elsewhere(descriptor: int, byte: int) -> bool:
    """Whether another process holds another byte."""
    before, after = (_FIRST_BYTE, byte - _FIRST_BYTE), (byte + 1, 0)  # 0: to the end
    return _CAN_LOCK and any(
        _holder(descriptor, start, length) for start, length in (before, after) if start != byte
    )


def _holder(descriptor: int, start: int, length: int) -> bool:
    found = fcntl.fcntl(descriptor, fcntl.F_OFD_GETLK, _pack(fcntl.F_WRLCK, start, length))
    return bool(struct.unpack(_FORMAT, found)[0] != fcntl.F_UNLCK)


def _pack(kind: int, start: int, length: int) -> bytes:
    return struct.pack(_FORMAT, kind, os.SEEK_SET, start, length, 0)
