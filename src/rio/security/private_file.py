"""Files that hold secrets: only their owner may read them."""

from __future__ import annotations

import os
from pathlib import Path

from rio.errors import ConfigurationError


def read_private(path: Path) -> str:
    """The text of a file with secrets.

    :raises ConfigurationError: it cannot be read, is no text, or others may read it too.
    """
    try:
        with path.open(encoding="utf-8") as file:
            mode = os.fstat(file.fileno()).st_mode
            text = file.read()
    except (OSError, UnicodeDecodeError) as error:
        why = error.strerror if isinstance(error, OSError) else "it is no text"
        raise ConfigurationError(f"{path} cannot be read: {why}") from None
    if os.name == "posix" and mode & 0o077:
        raise ConfigurationError(
            f"others than its owner may read {path} (mode {mode & 0o777:o}): chmod 600 {path}"
        )
    return text
