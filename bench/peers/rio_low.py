"""rio with ``latency="low"`` on both sides: their loops stay awake between two calls."""

from __future__ import annotations

from functools import partial

from bench.peers import rio as normal

TITLE = 'rio, async handler, latency="low"'
IN_FLIGHT_LIMIT = 1

serve = partial(normal.serve, latency="low")
drive = partial(normal.drive, latency="low")
