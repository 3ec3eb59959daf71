"""Whether the process can open more sockets and files."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable

from rio.logs import Logger

logger = Logger("rio.server")

REPEAT = 60.0
"""Seconds between two lines in the log about the same lack."""


class Descriptors:
    """Says in the log when the process has no descriptors left, and when it has some again.

    uvloop says nothing about it, and clients see nothing but connections that nobody accepts.
    """

    def __init__(self, now: Callable[[], float]) -> None:
        self._now = now
        self._told_at: float | None = None
        """When the log last said that there are none; ``None``: there are some."""

    def look(self) -> None:
        """Try whether there is a descriptor. Call it now and then."""
        try:
            read, write = os.pipe()
        except OSError as error:
            if error.errno not in (errno.EMFILE, errno.ENFILE):
                raise
            self._tell_of_lack(error)
            return
        os.close(read)
        os.close(write)
        if self._told_at is not None:
            self._told_at = None
            logger.warning("there are descriptors again: new connections are accepted")

    def _tell_of_lack(self, error: OSError) -> None:
        if self._told_at is None or self._now() - self._told_at >= REPEAT:
            self._told_at = self._now()
            logger.error(
                "no new connection can be accepted and no file opened: %s; raise the limit of open"
                " files (ulimit -n), or have fewer clients",
                error.strerror,
            )
