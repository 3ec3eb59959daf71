"""What a node does when its lease moves or ends."""

from __future__ import annotations

import asyncio
import math

from rio.logs import Logger
from rio.server.catalog import Catalog

logger = Logger("rio.server")

FENCE_GRACE = 1.0
"""Seconds without the lease after which handlers that still run are cancelled."""


class Fence:
    """Holds the dispatcher to the lease. Without it no turn starts; some time later those that
    still run are cancelled, because another node may soon own their objects.
    """

    def __init__(self, catalog: Catalog) -> None:
        self._catalog = catalog
        self._timer: asyncio.TimerHandle | None = None

    def move(self, until: float) -> None:
        """Admit turns until this moment of the dispatcher's clock."""
        dispatcher = self._catalog.dispatcher
        dispatcher.set_lease(until)
        self._catalog.lease_has_moved()
        self.disarm()
        if until < math.inf:
            delay = max(0.0, until - dispatcher.now()) + FENCE_GRACE
            self._timer = asyncio.get_running_loop().call_later(delay, self._cancel_running)

    def disarm(self) -> None:
        """Cancel nothing when the lease ends."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _cancel_running(self) -> None:
        cancelled = self._catalog.cancel_running()
        logger.warning(
            "%s has lost its lease: %d running handlers and hooks were cancelled",
            self._catalog.address,
            len(cancelled),
        )
