"""The counters of a node, as one record."""

from __future__ import annotations

from typing import Self

import msgspec

from rio._core.dispatch import Dispatcher
from rio.security.trust import Trust
from rio.server.pubsub import Subscribers


class ServerStatistics(msgspec.Struct, frozen=True):
    """The counters of one node at one moment. Those of calls and events count from the start."""

    live_objects: int
    """Objects in memory, with those that are being activated or deactivated."""
    calls: int
    """Requests that arrived."""
    failures: int
    """Requests that were answered with an error."""
    in_flight: int
    """Requests that wait or run now."""
    fenced: int
    """Turns and replies that were held back because the node did not hold its lease."""
    connections: int
    """Connections of clients and of other nodes."""
    subscriptions: int
    """Subscriptions to objects of this node."""
    events_delivered: int
    """Events that were sent, counted once for each subscriber."""
    events_dropped: int
    """Events that were dropped because the subscriber's connection was too slow."""
    certificates_expire_in: float | None
    """Seconds until the first certificate or authority of the node's security expires; below 0
    after that, and ``None`` without certificates.
    """

    @classmethod
    def of(cls, dispatcher: Dispatcher, subscribers: Subscribers, security: Trust | None) -> Self:
        """Read the counters now."""
        return cls(
            live_objects=dispatcher.live,
            calls=dispatcher.calls,
            failures=dispatcher.failures,
            in_flight=dispatcher.in_flight,
            fenced=dispatcher.fenced,
            connections=len(dispatcher.connections),
            subscriptions=len(subscribers),
            events_delivered=subscribers.delivered,
            events_dropped=subscribers.dropped,
            certificates_expire_in=None if security is None else security.credentials.expire_in,
        )
