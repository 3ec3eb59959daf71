"""Commands as a user runs them: a test sees only their output and their exit code."""

from __future__ import annotations

import os
import queue
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Self

ROOT = Path(__file__).parents[2]
TIMEOUT = 20.0
"""Seconds that a test waits at most."""


def environment(more: Mapping[str, str] | None = None) -> dict[str, str]:
    """This process's environment without settings for rio, with this checkout on the path."""
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("RIO_")}
    return {**inherited, "PYTHONPATH": str(ROOT / "src"), "PYTHONUNBUFFERED": "1", **(more or {})}


def python(
    *arguments: str, cwd: Path, environ: Mapping[str, str] | None = None
) -> subprocess.CompletedProcess[str]:
    """Run ``python ...`` to its end."""
    command = [sys.executable, *arguments]
    return subprocess.run(
        command,
        cwd=cwd,
        env=environment(environ),
        capture_output=True,
        text=True,
        timeout=2 * TIMEOUT,
    )


def rio(
    *arguments: str, cwd: Path, environ: Mapping[str, str] | None = None
) -> subprocess.CompletedProcess[str]:
    """Run ``rio ...`` to its end."""
    return python("-m", "rio", *arguments, cwd=cwd, environ=environ)


class Running:
    """A ``rio ...`` command, or that of another module, while it runs; killed in the end, if it has
    not ended.
    """

    def __init__(
        self,
        *arguments: str,
        cwd: Path,
        environ: Mapping[str, str] | None = None,
        errors_in: Path | None = None,
        module: str = "rio",
    ) -> None:
        self._errors = ((errors_in or cwd) / f"stderr-{time.monotonic_ns()}.txt").open("w+")
        self.process = subprocess.Popen(
            [sys.executable, "-m", module, *arguments],
            cwd=cwd,
            env=environment(environ),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._errors,
            text=True,
        )
        self._lines: queue.Queue[str | None] = queue.Queue()
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.process.kill()
        self.process.wait()
        assert self.process.stdin is not None
        self.process.stdin.close()
        self._errors.close()

    def _read(self) -> None:
        assert self.process.stdout is not None
        with self.process.stdout as output:
            for line in output:
                self._lines.put(line.rstrip("\n"))
        self._lines.put(None)

    def line(self) -> str:
        """Wait for the next line of its output."""
        try:
            line = self._lines.get(timeout=TIMEOUT)
        except queue.Empty:
            raise AssertionError(f"no more output; on stderr:\n{self.errors()}") from None
        assert line is not None, f"it has ended; on stderr:\n{self.errors()}"
        return line

    def type(self, line: str) -> None:
        """Give it a line of input."""
        assert self.process.stdin is not None
        self.process.stdin.write(line + "\n")
        self.process.stdin.flush()

    def address(self) -> str:
        """Wait for the next server that listens, and return its address."""
        words = self.line().split()
        assert words[:2] == ["listening", "on"]
        return words[2]

    def signal(self, number: signal.Signals) -> None:
        self.process.send_signal(number)

    def ended(self) -> int:
        """Wait until it has ended by itself, and return its exit code."""
        return self.process.wait(TIMEOUT)

    def errors(self) -> str:
        return Path(self._errors.name).read_text()


def until(claim: Callable[[], bool]) -> None:
    """Wait until ``claim`` is true."""
    deadline = time.monotonic() + TIMEOUT
    while not claim():
        assert time.monotonic() < deadline, f"waited {TIMEOUT:g} s in vain"
        time.sleep(0.05)
