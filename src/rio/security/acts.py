"""The audit log: what operators do to servers and objects over connections, and who they are."""

from __future__ import annotations

import logging
from typing import Protocol

from rio.logs import Logger

logger = Logger("rio.audit")


class Holder(Protocol):
    """Who holds a key."""

    @property
    def id(self) -> str: ...
    @property
    def role(self) -> str: ...


def note_act(act: str, on: str, who: Holder | None, peer: str, refused: str = "") -> None:
    """Log what somebody at the address ``peer`` did, or wanted to do. ``who`` is ``None`` where
    nobody has a key. ``act`` may be the name of a message. ``refused``: why it was not done.

    Names come from outside: what is no printable character in them is escaped.
    """
    key, role = (None, None) if who is None else (who.id, who.role)
    line = f"act={act.removeprefix('rio.')} on={on!r} key={key!r} role={role} peer={peer}"
    if refused:
        logger.log(logging.WARNING, "%s outcome=refused why=%r", line, refused)
    else:
        logger.log(logging.INFO, "%s outcome=done", line)
