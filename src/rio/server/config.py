"""What an operator may tune about one server."""

from __future__ import annotations

import math

import msgspec

from rio._core.dispatch import HELD_LIMIT, IN_FLIGHT_LIMIT, MAX_TIMEOUT, WAITING_LIMIT
from rio._core.frame import DEFAULT_FRAME_LIMIT, HARD_FRAME_LIMIT
from rio.errors import ConfigurationError
from rio.objects.lifecycle import problem_of_limit
from rio.server.memory import check_limit
from rio.transport.socket_file import OWNER_ONLY

LEAST_FRAME_LIMIT = 1024
"""Bytes that a frame limit has at least, so that the peers can introduce themselves."""

LEAST_BLOCKED = 0.2
"""Seconds after which a loop counts as blocked, at least: it beats each tenth of a second."""

DEFAULT_STATE_LIMIT = DEFAULT_FRAME_LIMIT
"""Bytes of a managed state: what comes in one message can be saved in one state."""


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

    max_timeout: float = float(MAX_TIMEOUT)
    """Seconds that a call from outside may take at most, whatever its sender says; more than 0.

    Past it, it ends as if its sender had said so.
    """

    drain_timeout: float = 20.0
    """Seconds that :meth:`rio.Server.stop` gives to objects that are busy; 0 or more.

    Then the server drops them: it cancels their handlers, runs no shutdown hook and saves nothing.
    """

    frame_limit: int = DEFAULT_FRAME_LIMIT
    """Bytes of one message, reply or event with its names, at most; from 1 KiB to 64 MiB.

    Larger messages and events are refused with :class:`rio.errors.FrameTooLarge`; a larger reply
    arrives as :class:`rio.errors.ReplyTooLarge`. Clients have a ``frame_limit`` of their own, which
    is 4 MiB too; the smaller one holds, and an event that a subscriber cannot take is a
    :class:`rio.errors.Gap` for it. Gossip between many servers takes up to 64 KiB.
    """

    state_limit: int = DEFAULT_STATE_LIMIT
    """Bytes of one managed state, at most; from 1 KiB to 64 MiB.

    Saving a larger one raises :class:`rio.errors.StateTooLarge`, and writes nothing. What is stored
    already is loaded whatever its size. A save of 1 MiB keeps the event loop of the server busy for
    some 10 milliseconds.
    """

    waiting_limit: int = WAITING_LIMIT
    """Calls that may wait for one object; at least 1.

    Further calls are refused with :class:`rio.errors.Overloaded`, and clients try again later.
    """

    in_flight_limit: int = IN_FLIGHT_LIMIT
    """Calls that may wait or run on this server; at least 1.

    Further calls are refused with :class:`rio.errors.Overloaded`, and clients try again later. A
    client may have up to 16 times as many as there are free places, over all its connections, so
    there is one for others. A sixteenth is for the nodes of the cluster only.
    """

    held_limit: int | None = None
    """Bytes that this server holds for its peers, at most: calls that wait, and replies that are
    not taken. ``None``: 64 MiB, or twice the ``frame_limit`` if that is more; at least that.

    A client may hold up to 16 times what is free, over all its connections, so something is left
    for others; a sixteenth is for the nodes of the cluster only. Messages of more than 64 KiB that
    arrive have twice as much: a client half of what is free, then it is not read for a while. A
    message must be whole after 10 seconds and those that it takes at 64 KiB a second. A further
    call that would have to wait is refused with :class:`rio.errors.Overloaded`, and clients try
    again later. A reply of more than 1 KiB to a client that does not take its replies is dropped,
    and the call ends as :class:`rio.errors.OutcomeUnknown`.
    """

    connection_limit: int | None = None
    """Connections of clients, at most; at least 1. ``None``: as many as the process may have open
    files, less a reserve for nodes, storage and connections that are being made.

    A client may have up to 16 times as many as there are free places. A further connection is
    refused with :class:`rio.errors.Overloaded`. Nodes of the cluster do not count.
    """

    subscription_limit: int = 50_000
    """Subscriptions on one connection of a client, at most; at least 1.

    A further one is refused with :class:`rio.errors.Overloaded`.
    """

    client_subscription_limit: int = 200_000
    """Subscriptions of one client on this server, over all its connections; at least 1."""

    activation_rate: float | None = 2000.0
    """Objects that one client may bring to life on this server in a second, on average; more than
    0. ``None``: any number.

    Calls to objects in memory do not count. A call that would activate one more is refused with
    :class:`rio.errors.Overloaded`, and clients try again later.
    """

    activation_burst: int = 200_000
    """Objects that one client may bring to life at once, after it has brought few to life for a
    while; at least 1.
    """

    thread_limit: int = 64
    """Handlers with ``thread=True`` that run at the same time; at least 1.

    Others wait within their turns. A thread that outlasts its turn counts until it ends.
    """

    activate_timeout: float = 10.0
    """Seconds that the hooks have which bring an object to life, all together; more than 0.

    Past it the running hook is cancelled, and the callers get :class:`rio.errors.NotActivated`. A
    class can set its own: ``class Room(rio.ServiceObject, activate_timeout=3.0)``.
    """

    deactivate_timeout: float = 15.0
    """Seconds that the shutdown hooks of an object have, both together; more than 0.

    Past it the running hook is cancelled, and the object goes as if the hook had failed. A class
    can set its own.
    """

    idle_after: float | None = 900.0
    """Seconds without a call or a subscription after which an object leaves the memory; at least 1.

    ``None``: objects stay. A class can set its own.
    """

    max_objects: int | None = None
    """Objects in memory, at most; at least 1. ``None``: any number.

    Before one more comes to life, one that is not in use leaves; while it does, up to 64 more can
    be in memory. If all are in use, the call is refused with :class:`rio.errors.Overloaded`.
    """

    max_memory: int | str | None = None
    """Memory of the process above which objects that are not in use leave: bytes, or a share like
    ``"80%"`` of what the control group allows, else of the machine. ``None``: no limit. Linux only.
    """

    socket_mode: int = OWNER_ONLY
    """Who may connect to a server at a ``unix:`` address, as in ``chmod``; from 0 to 0o777.

    The user of the server alone, by default. The group of the file is that of the process, or that
    of the folder where the folder says so (``chmod g+s``).
    """

    blocked_after: float | None = 0.5
    """Seconds for which the event loop may stand still before the log says so, with the object and
    the lines that block it; at least 0.2. ``None``: nobody looks.

    A thread looks for it a few times a second. A call pays nothing.
    """

    def __post_init__(self) -> None:
        if not 0 < self.timeout < math.inf:
            raise _out_of_range("timeout", self.timeout, "a finite number of seconds above 0")
        if not 0 < self.max_timeout < math.inf:
            raise _out_of_range(
                "max_timeout", self.max_timeout, "a finite number of seconds above 0"
            )
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
        if not LEAST_FRAME_LIMIT <= self.state_limit <= HARD_FRAME_LIMIT:
            raise _out_of_range(
                "state_limit",
                self.state_limit,
                f"from {LEAST_FRAME_LIMIT} to {HARD_FRAME_LIMIT} bytes",
            )
        if self.waiting_limit < 1:
            raise _out_of_range("waiting_limit", self.waiting_limit, "at least 1")
        if self.in_flight_limit < 1:
            raise _out_of_range("in_flight_limit", self.in_flight_limit, "at least 1")
        for name in (
            "thread_limit",
            "subscription_limit",
            "client_subscription_limit",
            "activation_burst",
        ):
            if getattr(self, name) < 1:
                raise _out_of_range(name, getattr(self, name), "at least 1")
        if self.connection_limit is not None and self.connection_limit < 1:
            raise _out_of_range("connection_limit", self.connection_limit, "None or at least 1")
        if self.activation_rate is not None and not 0 < self.activation_rate < math.inf:
            raise _out_of_range(
                "activation_rate", self.activation_rate, "None or a finite number above 0"
            )
        if self.held_limit is not None and self.held_limit < 2 * self.frame_limit:
            raise _out_of_range(
                "held_limit",
                self.held_limit,
                f"None or at least twice the frame_limit, {2 * self.frame_limit} bytes",
            )
        for name in ("activate_timeout", "deactivate_timeout", "idle_after"):
            problem = problem_of_limit(name, getattr(self, name))
            if problem:
                raise ConfigurationError(problem)
        if self.max_objects is not None and self.max_objects < 1:
            raise _out_of_range("max_objects", self.max_objects, "None or at least 1")
        if self.blocked_after is not None and not LEAST_BLOCKED <= self.blocked_after < math.inf:
            raise _out_of_range("blocked_after", self.blocked_after, "None or at least 0.2")
        if not 0 <= self.socket_mode <= 0o777:
            raise _out_of_range("socket_mode", self.socket_mode, "from 0 to 0o777")
        if self.max_memory is not None:
            check_limit(self.max_memory)


def held_limit_of(config: ServerConfig) -> int:
    """The ``held_limit``, computed where it is ``None``."""
    return config.held_limit or max(HELD_LIMIT, 2 * config.frame_limit)


def _out_of_range(name: str, value: float, range: str) -> ConfigurationError:
    return ConfigurationError(f"{name} must be {range}, got {value!r}")
