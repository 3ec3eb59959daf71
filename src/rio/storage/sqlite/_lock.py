"""Which process holds a file's lock for writing."""

from __future__ import annotations

from pathlib import Path

from rio.storage.sqlite._identity import FileId

_WRITE_LOCK = 120
"""The byte of ``-shm`` that the process locks whose transaction writes."""
_STOPPED = ("T", "t")
"""States of a process that runs nothing until somebody continues it."""


def describe_writer(path: str) -> str:
    """The process that holds the lock of the database at ``path`` now, in words.

    Only Linux tells it. Elsewhere, and if nobody holds the lock any more, it is another process.
    """
    process = _find_writer(path)
    if process is None:
        return "another process"
    name, state = _read_status(process)
    stopped = ", which is stopped: continue or kill it," if state in _STOPPED else ""
    return f"process {process} ({name}){stopped}"


def _find_writer(path: str) -> int | None:
    """Read the kernel's list: to ask for the lock, a descriptor of ``-shm`` would be needed, and
    closing it would drop the locks of this process.

    The device in the list is not the one of ``stat`` on every file system, so the number of the
    file and the byte have to do.
    """
    beside = FileId.of(f"{path}-shm")
    if beside is None:
        return None
    try:
        locks = Path("/proc/locks").read_text().splitlines()
    except OSError:
        return None
    for lock in locks:
        # "1: POSIX  ADVISORY  WRITE 12903 fe:00:10045832 120 120"
        _, *fields = lock.split()
        if fields[0] != "POSIX" or fields[2] != "WRITE":
            continue  # a lock for reading, or a process that waits ("->")
        process, where, first = int(fields[3]), fields[4], fields[5]
        if where.endswith(f":{beside.inode}") and int(first) == _WRITE_LOCK and process > 0:
            return process
    return None


def _read_status(process: int) -> tuple[str, str]:
    """The name and the state of a process. Its command line may hold a password."""
    try:
        status = Path(f"/proc/{process}/stat").read_text()
    except OSError:  # it has just ended
        return "ended", ""
    before, _, after = status.rpartition(")")
    return before.partition("(")[2], after.split()[0]
