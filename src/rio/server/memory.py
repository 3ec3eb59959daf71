"""How much memory the process takes, and how much it may take."""

from __future__ import annotations

import os
from pathlib import Path

from rio.errors import ConfigurationError

STATUS = Path("/proc/self/statm")
MACHINE = Path("/proc/meminfo")
CONTROL_GROUP = (
    Path("/sys/fs/cgroup/memory.max"),
    Path("/sys/fs/cgroup/memory/memory.limit_in_bytes"),
)
"""Where the limit of the control group stands, in version 2 and 1."""


def check_limit(limit: int | str) -> None:
    """:raises ConfigurationError: the limit is neither a number of bytes nor a share."""
    if isinstance(limit, str):
        _read_share(limit)
    elif not (isinstance(limit, int) and limit > 0):
        raise ConfigurationError(f"max_memory {_EXPECTED}, got {limit!r}")


def bytes_of_limit(limit: int | str) -> int:
    """The bytes of a limit that :func:`check_limit` accepts.

    :raises ConfigurationError: this system does not tell how much memory a process takes.
    """
    if not STATUS.exists():
        raise ConfigurationError(
            f"max_memory needs {STATUS}, which this system does not have: leave it out, and set "
            "max_objects"
        )
    return int(_read_share(limit) * _available()) if isinstance(limit, str) else limit


def resident() -> int:
    """Bytes of memory that the process takes now."""
    return int(STATUS.read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def _available() -> int:
    """Bytes that the control group allows, or that the machine has, whichever is less."""
    total = int(MACHINE.read_text().split(maxsplit=2)[1]) * 1024  # "MemTotal:  16384 kB"
    return min([total, *(_allowed(path) for path in CONTROL_GROUP if path.exists())], key=float)


def _allowed(path: Path) -> int:
    text = path.read_text().strip()
    return int(text) if text != "max" else 1 << 62


_EXPECTED = 'must be a number of bytes above 0, or a share like "80%"'


def _read_share(text: str) -> float:
    number = text.removesuffix("%")
    try:
        share = float(number) / 100 if number != text else 0.0
    except ValueError:
        share = 0.0
    if not 0 < share <= 1:
        raise ConfigurationError(f"max_memory {_EXPECTED}, got {text!r}")
    return share
