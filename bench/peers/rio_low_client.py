"""rio with ``latency="low"`` in the client only."""

from __future__ import annotations

from bench.peers import rio as normal
from bench.peers import rio_low as low

TITLE = 'rio, async handler, latency="low" in the client'
IN_FLIGHT_LIMIT = 1

serve = normal.serve
drive = low.drive
