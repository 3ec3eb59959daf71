"""rio with ``latency="low"`` in the server only."""

from __future__ import annotations

from bench.peers import rio as normal
from bench.peers import rio_low as low

TITLE = 'rio, async handler, latency="low" in the server'
IN_FLIGHT_LIMIT = 1

serve = low.serve
drive = normal.drive
