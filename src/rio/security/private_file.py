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
            status = os.fstat(file.fileno())
            text = file.read()
    except (OSError, UnicodeDecodeError) as error:
        why = error.strerror if isinstance(error, OSError) else "it is no text"
        raise ConfigurationError(f"{path} cannot be read: {why}") from None
    if os.name == "posix" and not is_private(status.st_mode, status.st_uid, os.geteuid()):
        mode = status.st_mode & 0o777
        raise ConfigurationError(
            f"others than its owner may read {path} (mode {mode:o}): chmod 600 {path}"
        )
    return text


def is_private(mode: int, owner: int, reader: int) -> bool:
    """Whether nobody but the owner may read or change a file. One of root may be read by the group
    too, if it is ours for that reason: so a file of secrets comes to a process in a container.
    """
    return not mode & (0o037 if owner == 0 != reader else 0o077)


def write_private(path: Path, text: str) -> None:
    """Write a file as a whole, readable for its owner only, in the place of the one that is there.

    :raises OSError: that is not possible. The old one stays.
    """
    from tempfile import mkstemp  # needed here only

    descriptor, name = mkstemp(dir=path.parent, prefix=f".{path.name}.")  # mode 0600
    try:
        with open(descriptor, "w", encoding="utf-8") as file:
            file.write(text)
        os.replace(name, path)
    except BaseException:
        os.unlink(name)
        raise
