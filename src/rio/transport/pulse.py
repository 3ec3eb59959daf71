"""Whether the other end of a connection still lives.

A network can drop a flow without a word, and a process can be stopped: nothing tells the other end.
So whoever hears nothing for a while asks (a PING), and gives up if not a byte comes.
"""

from __future__ import annotations

import math
import socket
from enum import Enum, auto
from typing import Any

LOOK_INTERVAL = 2.5
"""Seconds between two looks at a connection."""

ASK_AFTER = 10.0
"""Seconds of silence after which the other end is asked, and again and again."""

CLIENT_PATIENCE = 5.0
"""Seconds after which a client gives up a server that was asked: its calls go over a new
connection.
"""

SERVER_PATIENCE = 50.0
"""The same of a server. A client whose loop was busy for a while keeps its connection."""

UNACKNOWLEDGED = 20.0
"""Seconds after which the kernel gives up a connection whose other end acknowledges nothing."""


class Verdict(Enum):
    ALIVE = auto()
    ASK = auto()
    DEAD = auto()


class Pulse:
    """What one end of a connection has heard of the other.

    ``patience``: seconds of silence, after the other end was asked, that are its end.
    """

    __slots__ = ("_asked_at", "_first_asked_at", "_heard", "_heard_at", "_looked_at", "_patience")

    def __init__(self, patience: float) -> None:
        self._patience = patience
        self._heard = -1
        self._heard_at = 0.0
        self._asked_at = self._first_asked_at = math.inf
        self._looked_at = 0.0

    def look(self, heard: int, now: float) -> Verdict:
        """What to do about a peer of which ``heard`` bytes have come in all. Called at each
        ``LOOK_INTERVAL``.
        """
        stood_still = now - self._looked_at > 2 * LOOK_INTERVAL
        self._looked_at = now
        if heard != self._heard or stood_still:  # after a halt of our own, what came is not read
            self._heard, self._heard_at = heard, now
            self._asked_at = self._first_asked_at = math.inf
            return Verdict.ALIVE
        if now - self._first_asked_at >= self._patience:
            return Verdict.DEAD
        last = self._heard_at if self._asked_at == math.inf else self._asked_at
        return self.ask(now) if now - last >= ASK_AFTER else Verdict.ALIVE

    def ask(self, now: float) -> Verdict:
        """There is a doubt: the other end is asked now."""
        self._asked_at = now
        self._first_asked_at = min(self._first_asked_at, now)
        return Verdict.ASK

    @property
    def is_asked(self) -> bool:
        """Whether an answer is awaited."""
        return self._first_asked_at < math.inf


def watch_acknowledgements(transport: Any) -> None:
    """Have the kernel give up a TCP connection whose other end is gone, where it can."""
    sock = transport.get_extra_info("socket")
    if sock is None or sock.family not in (socket.AF_INET, socket.AF_INET6):
        return
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    if hasattr(socket, "TCP_USER_TIMEOUT"):  # Linux
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, int(UNACKNOWLEDGED * 1000))
