"""What an operator may tune about one server."""

from __future__ import annotations

import math

import msgspec

from rio._core.dispatch import IN_FLIGHT_LIMIT, WAITING_LIMIT
from rio._core.frame import DEFAULT_FRAME_LIMIT, HARD_FRAME_LIMIT
from rio.errors import ConfigurationError

LEAST_FRAME_LIMIT = 1024
"""Bytes that a frame limit has at least, so that the peers can introduce themselves."""


class ServerConfig(msgspec.Struct, frozen=True, kw_only=True):
    """The settings of one server: ``rio.Server(registry, config=rio.ServerConfig(timeout=5.0))``.

    The servers of a cluster may have different ones. What they must share is in
    :class:`rio.ClusterConfig`.

    :raises ConfigurationError: a value is out of its range.
    """

    timeout: float = 30.0
    """Seconds for a call that an object of this server or ``server.client`` makes; more than 0.

    A call that names its own ``timeout=`` takes that.
    """

    drain_timeout: float = 20.0
    """Seconds that :meth:`rio.Server.stop` gives to objects that are busy; 0 or more.

    Then the server drops them: it cancels their handlers, runs no shutdown hook and saves nothing.
    """

    frame_limit: int = DEFAULT_FRAME_LIMIT
    """Bytes of one message, reply or event with its names, at most; from 1 KiB to 64 MiB.

    Larger messages and events are refused with :class:`rio.errors.FrameTooLarge`; a larger reply
    arrives as :class:`rio.errors.ReplyTooLarge`. Clients have a ``frame_limit`` of their own, which
    is 4 MiB too. Gossip between many servers takes up to 64 KiB.
    """

    waiting_limit: int = WAITING_LIMIT
    """Calls that may wait for one object; at least 1.

    Further calls are refused with :class:`rio.errors.Overloaded`, and clients try again later.
    """

    in_flight_limit: int = IN_FLIGHT_LIMIT
    """Calls that may wait or run on this server; at least 1.

    Further calls are refused with :class:`rio.errors.Overloaded`, and clients try again later.
    """

    def __post_init__(self) -> None:
        if not 0 < self.timeout < math.inf:
            raise _out_of_range("timeout", self.timeout, "a finite number of seconds above 0")
        if not 0 <= self.drain_timeout < math.inf:
            raise _out_of_range(
                "drain_timeout", self.drain_timeout, "a finite number of seconds, 0 or more"
            )
        if not LEAST_FRAME_LIMIT <= self.frame_limit <= HARD_FRAME_LIMIT:
            raise _out_of_range(
                "frame_limit",
                self.frame_limit,
                f"from {LEAST_FRAME_LIMIT} to {HARD_FRAME_LIMIT} bytes",
            )
        if self.waiting_limit < 1:
            raise _out_of_range("waiting_limit", self.waiting_limit, "at least 1")
        if self.in_flight_limit < 1:
            raise _out_of_range("in_flight_limit", self.in_flight_limit, "at least 1")


def _out_of_range(name: str, value: float, range: str) -> ConfigurationError:
    return ConfigurationError(f"{name} must be {range}, got {value!r}")
