"""Which tests get the machine first: those of clusters of processes, and of the command line.

Such a cluster is judged by the clock: its storage has half a second to answer. It also waits a lot,
for leases to end and for processes to start. So one worker of pytest-xdist runs these tests, and
the others take what it leaves of the processors.
"""

from __future__ import annotations

import os
from functools import cache

LEVELS = 10
"""By how much the others are nicer: as soon as both want a processor they get a tenth of it."""


@cache
def give_way() -> None:
    """Give way from now on, in this process and in all that it starts. Only root could go back."""
    if hasattr(os, "nice"):
        os.nice(LEVELS)
