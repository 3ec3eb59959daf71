"""rio with a handler that is a plain function, and ``latency="low"`` on both sides."""

from __future__ import annotations

from functools import partial

from bench.peers import rio_plain as normal

TITLE = 'rio, plain handler, latency="low"'
IN_FLIGHT_LIMIT = 1

serve = partial(normal.serve, latency="low")
drive = partial(normal.drive, latency="low")
