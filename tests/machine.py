"""Who may use the machine: tests of pytest-xdist's workers side by side, or one test alone.

A cluster of real processes is judged by the clock: its storage has half a second to answer. Beside
tests that fill a core, or the disk's queue, it would be judged by their load.

Such tests run one after the other without giving the machine back: each of them would have to wait
until the longest of the tests that run meanwhile has ended, and the other workers for nothing.
"""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import IO

try:
    import fcntl
except ImportError:  # Windows, where no test starts a cluster of processes
    fcntl = None  # type: ignore[assignment]


class Turn:
    """The use of the machine by one worker; ``run`` names the test run."""

    def __init__(self, run: str) -> None:
        self._run = run
        self._use: IO[str] | None = None

    def take(self, *, alone: bool) -> None:
        """Use the machine, beside others or alone. Nothing changes for who uses it already.

        A worker that waits to be alone holds the turn, so that it does not wait for ever while
        others come and go.
        """
        if fcntl is None or self._use is not None:
            return
        self._use = _file(self._run, "use").open("w")
        with _file(self._run, "turn").open("w") as turn:
            fcntl.flock(turn, fcntl.LOCK_EX)
            fcntl.flock(self._use, fcntl.LOCK_EX if alone else fcntl.LOCK_SH)

    def give_back(self) -> None:
        """Let others use the machine. Idempotent."""
        if self._use is not None:
            self._use.close()
            self._use = None


def forget(run: str) -> None:
    """Remove the files of a test run. A worker that still uses them keeps them open."""
    for what in ("turn", "use"):
        _file(run, what).unlink(missing_ok=True)


def _file(run: str, what: str) -> Path:
    return Path(tempfile.gettempdir()) / f"rio-{run}.{what}"
