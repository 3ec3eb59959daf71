"""Probes that a member makes for others."""

from __future__ import annotations

import math
from collections.abc import Iterator

import msgspec

from rio.cluster.config import GossipConfig
from rio.cluster.gossip.actions import GossipActions
from rio.cluster.gossip.awareness import Awareness
from rio.cluster.gossip.membership_view import MembershipView
from rio.cluster.gossip.messages import Ack, Nack, Ping, PingRequest

MAX_RELAYS = 64
"""Probes under way for others, at most."""

NACK_SHARE = 0.8
"""The share of ``probe_timeout`` after which a node reports that it has no answer either, so that
the report still comes in time.
"""


class Relay(msgspec.Struct, frozen=True):
    """One probe that this node makes for another one."""

    origin: int
    """The member that has asked for it."""
    number: int
    """What the origin calls the probe."""
    target: int
    ends_at: float


class Relays:
    """Pings members for others, and passes the answers on.

    A sick node does not: that it hears nothing may be its own fault.
    """

    def __init__(
        self,
        view: MembershipView,
        awareness: Awareness,
        actions: GossipActions,
        numbers: Iterator[int],
        config: GossipConfig,
    ) -> None:
        self._view = view
        self._awareness = awareness
        self._actions = actions
        self._numbers = numbers
        self._patience = NACK_SHARE * config.probe_timeout
        self._relays: dict[int, Relay] = {}

    @property
    def due(self) -> float:
        """When the oldest relay ends, or infinity where there is none."""
        return next(iter(self._relays.values())).ends_at if self._relays else math.inf

    def take_request(self, message: PingRequest, now: float) -> None:
        """Ping the target, or say at once that there is no answer."""
        if (
            self._awareness.sick
            or message.target not in self._view.members
            or len(self._relays) >= MAX_RELAYS
        ):
            self._actions.send(message.source, Nack, message.number)
            return
        number = next(self._numbers)
        self._relays[number] = Relay(
            message.source, message.number, message.target, now + self._patience
        )
        self._actions.send(message.target, Ping, number)

    def take_answer(self, message: Ack) -> bool:
        """Pass an answer on, if it is one to a relay; returns whether it is."""
        relay = self._relays.get(message.number)
        if relay is None or relay.target != message.source:
            return False
        del self._relays[message.number]
        self._actions.send(relay.origin, Ack, relay.number)
        return True

    def pass_time(self, now: float) -> None:
        """End the relays whose time is over, and tell those that asked."""
        for number, relay in list(self._relays.items()):
            if now >= relay.ends_at:
                del self._relays[number]
                self._actions.send(relay.origin, Nack, relay.number)
