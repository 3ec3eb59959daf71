"""How many more sockets and files the process can open."""

from __future__ import annotations

import errno
import math
import os
import sys
from collections.abc import Callable

from rio.logs import Logger

try:
    import resource
except ImportError:  # on Windows
    resource = None  # type: ignore[assignment]  # a module, where there is one

logger = Logger("rio.server")

REPEAT = 60.0
"""Seconds between two lines in the log about the same lack."""
RESERVE = 200
"""Descriptors that are kept from the connections of clients, for the storage, the other nodes and
the pages about the node's health. Where the limit is low, an eighth of it.
"""


class Descriptors:
    """Tells when the descriptors of the process run out, and says so in the log."""

    def __init__(self, now: Callable[[], float]) -> None:
        self._now = now
        self._told_at = -math.inf
        """When the log last said that they run out."""
        self._is_told = False
        """Whether the log says so of this time."""

    def are_scarce(self) -> bool:
        """Whether only the reserve is left. It costs little: the next descriptor gets the lowest
        number that is free, so all below it are in use.
        """
        limit = descriptor_limit()
        if _next_number() < limit - reserve_of(limit):
            return False
        if self._now() - self._told_at >= REPEAT:
            self._told_at = self._now()
            self._is_told = True
            logger.error(
                "the process may have %d descriptors, and nearly all are in use: no new connections"
                " are accepted until some are free; raise the limit of open files (ulimit -n), or"
                " have fewer clients",
                limit,
            )
        return True

    def are_enough(self) -> bool:
        """Whether more than the reserve is left again, with some to spare."""
        limit = descriptor_limit()
        kept = reserve_of(limit)
        if _count() >= limit - kept - kept // 8:
            return False
        if self._is_told:
            self._is_told = False
            logger.warning("there are descriptors again: new connections are accepted")
        return True


def reserve() -> int:
    """How many descriptors are not for clients."""
    return reserve_of(descriptor_limit())


def reserve_of(limit: int) -> int:
    """How many of ``limit`` descriptors are not for clients."""
    return min(RESERVE, limit // 8)


def descriptor_limit() -> int:
    """How many descriptors the process may have; their numbers are below it."""
    if resource is None:
        return sys.maxsize
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return sys.maxsize if soft == resource.RLIM_INFINITY else soft


def _next_number() -> int:
    try:
        number = os.open(os.devnull, os.O_RDONLY)
    except OSError as error:
        if error.errno not in (errno.EMFILE, errno.ENFILE):
            raise
        return sys.maxsize
    os.close(number)
    return number


def _count() -> int:
    """How many descriptors are in use."""
    try:
        return len(os.listdir("/dev/fd"))
    except OSError:  # there is no such folder, or no descriptor to read it
        return _next_number()
