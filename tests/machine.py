"""Who may use the machine: tests of pytest-xdist's workers side by side, or one test alone.

A cluster of real processes is judged by the clock: its storage has half a second to answer. Beside
tests that fill a core, or the disk's queue, it would be judged by their load.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

try:
    import fcntl
except ImportError:  # Windows, where no test starts a cluster of processes
    fcntl = None  # type: ignore[assignment]


@contextmanager
def machine(run: str, *, alone: bool) -> Iterator[None]:
    """Use the machine, beside others or ``alone``; ``run`` names the test run.

    A worker that waits to be alone holds the turn, so that it does not wait for ever while others
    come and go.
    """
    if fcntl is None:
        yield
        return
    with _file(run, "turn").open("w") as turn, _file(run, "use").open("w") as use:
        fcntl.flock(turn, fcntl.LOCK_EX)
        fcntl.flock(use, fcntl.LOCK_EX if alone else fcntl.LOCK_SH)
        fcntl.flock(turn, fcntl.LOCK_UN)
        yield


def forget(run: str) -> None:
    """Remove the files of a test run. A worker that still uses them keeps them open."""
    for what in ("turn", "use"):
        _file(run, what).unlink(missing_ok=True)


def _file(run: str, what: str) -> Path:
    return Path(tempfile.gettempdir()) / f"rio-{run}.{what}"
