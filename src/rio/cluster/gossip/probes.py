"""How a member finds out whether the others answer."""

from __future__ import annotations

import math
from collections.abc import Container, Iterator

from rio.cluster.config import GossipConfig
from rio.cluster.gossip.actions import GossipActions, ResetLink
from rio.cluster.gossip.awareness import SICK, Awareness
from rio.cluster.gossip.member_ring import MemberRing
from rio.cluster.gossip.membership_view import MembershipView
from rio.cluster.gossip.messages import Ack, GossipMessage, Nack, Ping, PingRequest
from rio.cluster.gossip.news import News
from rio.cluster.gossip.probe_order import ProbeOrder
from rio.cluster.gossip.suspicion import Suspicions


class Probe:
    """The probe that is under way."""

    def __init__(self, target: int, number: int, asks_at: float, ends_at: float) -> None:
        self.target = target
        self.number = number
        self.asks_at = asks_at
        """When others are asked to try; infinity once they are."""
        self.ends_at = ends_at
        self.asked: set[int] = set()
        """The members that were asked to try."""
        self.nacks: set[int] = set()
        """Those of them that have no answer either."""


class Prober:
    """Pings one member after the other, each ``probe_interval``. A member that does not answer is
    pinged by some others as well; if none of them hears it, this node suspects it.
    """

    def __init__(
        self,
        order: ProbeOrder,
        ring: MemberRing,
        view: MembershipView,
        suspicions: Suspicions,
        awareness: Awareness,
        news: News,
        actions: GossipActions,
        numbers: Iterator[int],
        config: GossipConfig,
        first_at: float,
    ) -> None:
        self._order = order
        self._ring = ring
        self._view = view
        self._suspicions = suspicions
        self._awareness = awareness
        self._news = news
        self._actions = actions
        self._numbers = numbers
        self._config = config
        self._next_at = first_at
        self._probe: Probe | None = None
        self._sick: set[int] = set()
        """Members that say that they distrust themselves: they are not asked for help."""

    @property
    def due(self) -> float:
        """When there is something to do."""
        if self._probe is None:
            return self._next_at
        return min(self._next_at, self._probe.asks_at, self._probe.ends_at)

    def pass_time(self, now: float) -> None:
        """End the probe that is under way, or ask others to try; begin the next one."""
        probe = self._probe
        if probe is not None and now >= probe.ends_at:
            self._fail(probe, now)
        elif probe is not None and now >= probe.asks_at:
            self._ask_others(probe)
        if now >= self._next_at:
            self._begin(now)

    def take_answer(self, message: Ack, now: float) -> bool:
        """End the probe, if this is an answer to it; returns whether it is."""
        probe = self._probe
        if (
            probe is None
            or message.number != probe.number
            or (message.source != probe.target and message.source not in probe.asked)
        ):
            return False
        self._probe = None
        self._awareness.adjust(-1)
        self._suspicions.note_answer(now)
        self._suspicions.end(probe.target)
        return True

    def take_nack(self, message: Nack, now: float) -> None:
        """Note that a member that was asked to try is alive, and has no answer either."""
        if self._probe is not None and message.number == self._probe.number:
            self._probe.nacks.add(message.source)
            self._suspicions.note_answer(now)

    def note_health(self, message: GossipMessage) -> None:
        """Note what the sender of a message thinks of its own senses."""
        if message.health >= SICK:
            self._sick.add(message.source)
        else:
            self._sick.discard(message.source)

    def forget(self, gone: Container[int]) -> None:
        """Give up the probe of a member that has ended."""
        self._sick = {member for member in self._sick if member not in gone}
        if self._probe is not None and self._probe.target in gone:
            self._probe = None

    def _begin(self, now: float) -> None:
        self._next_at = now + self._awareness.stretched(self._config.probe_interval)
        target = self._order.next(now)
        if target is not None:
            asks_at = now + self._awareness.stretched(self._config.probe_timeout)
            self._probe = Probe(target, next(self._numbers), asks_at, self._next_at)
            state = self._news.piggyback(target)
            self._actions.send(target, Ping, self._probe.number, state=state)

    def _ask_others(self, probe: Probe) -> None:
        probe.asks_at = math.inf
        unable = {probe.target, *self._suspicions, *self._sick}
        probe.asked.update(self._ring.sample(self._config.indirect_probes, excluded=unable))
        for member in sorted(probe.asked):
            self._actions.send(member, PingRequest, probe.number, probe.target)

    def _fail(self, probe: Probe, now: float) -> None:
        """The target has answered nobody: suspect it. If some of those that were asked said nothing
        either, the fault may be this node's own.
        """
        self._probe = None
        if probe.nacks < probe.asked:
            self._awareness.adjust(1)
        target = self._view.members.get(probe.target)
        if target is not None:
            self._actions.add(ResetLink(target.address))
            self._suspicions.suspect(target, now)
