"""What runs a member's gossip: it gives it time and messages, sends what it says, and has done in
the storage what it asks for.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import TypeAlias

from rio._core.clock import Clock
from rio.cluster.gossip.actions import (
    CastVote,
    Condemn,
    Fence,
    GossipAction,
    Refresh,
    ResetLink,
    Send,
)
from rio.cluster.gossip.awareness import SLOW_LOOP
from rio.cluster.gossip.conversation import Gossip
from rio.cluster.gossip.events import (
    GossipEvent,
    GreetingDue,
    LoopLate,
    MessageReceived,
    NewsDue,
    SnapshotRead,
    Tick,
    VoteWritten,
)
from rio.cluster.gossip.transport import GossipTransport
from rio.contracts.membership import Member, MembershipSnapshot
from rio.errors import NodeEvicted, StorageError
from rio.logs import Logger

logger = Logger("rio.cluster")

MAX_DUTIES = 64
"""Calls of the storage that gossip has asked for and that have not been made. More are dropped, as
gossip asks again.
"""

Duty: TypeAlias = Refresh | CastVote | Condemn | Fence


class GossipRunner:
    """Runs ``gossip`` over ``transport``, by ``clock``.

    Events are taken in at any time. Time passes, and the storage is called, while :meth:`run` runs.

    The rest is what gossip may ask of its node; any of it may raise :class:`StorageError` or
    :class:`NodeEvicted`. ``refresh``: read the membership, which ends in :meth:`note_read`.
    ``vote``: vote on a member, and return the member with all votes on it, or ``None`` if the
    storage does not know it. ``condemn``: move a member to ``CONDEMNED``, if it is as it was read.
    ``fence``: admit nothing until a renewal succeeds. ``renew``: renew the lease.
    """

    def __init__(
        self,
        gossip: Gossip,
        transport: GossipTransport,
        clock: Clock,
        *,
        refresh: Callable[[], Awaitable[object]],
        vote: Callable[[int], Awaitable[Member | None]],
        condemn: Callable[[Member], Awaitable[None]],
        fence: Callable[[], None],
        renew: Callable[[], Awaitable[None]],
    ) -> None:
        self._gossip = gossip
        self._transport = transport
        self._clock = clock
        self._refresh = refresh
        self._vote = vote
        self._condemn = condemn
        self._fence = fence
        self._renew = renew
        self._duties: asyncio.Queue[Duty] = asyncio.Queue(MAX_DUTIES)
        self._is_running = False
        self._timer: asyncio.TimerHandle | None = None
        self._heard = asyncio.Event()

    @property
    def active(self) -> frozenset[int]:
        """The generations of the active members, as last read."""
        return self._gossip.view.active

    def receive(self, source: int, payload: bytes) -> None:
        """Take in a message that arrived over the link of the member ``source``."""
        self._feed(MessageReceived(source, payload))
        self._heard.set()

    def note_read(self, snapshot: MembershipSnapshot, sent: float) -> None:
        """Take in a read of the membership that was asked for at ``sent``."""
        self._feed(SnapshotRead(snapshot, sent))

    def ask_for_refresh(self) -> None:
        """Have the membership read: this node has changed it, and the others shall hear of that."""
        self._ask_for(Refresh())

    def tell_news(self) -> None:
        """Tell some of the others now what is new. A node that ends has no next round."""
        self._feed(NewsDue())

    def greet(self) -> None:
        """Ping every active member that has not answered a greeting yet."""
        self._feed(GreetingDue())

    def reached_majority_of(self, members: frozenset[int]) -> bool:
        """Whether more than half of these have answered a greeting; true where there are none."""
        return self._gossip.greeting.reached_majority_of(members)

    def silent(self, members: frozenset[int]) -> frozenset[int]:
        """Those of these members that have not answered a greeting yet."""
        return self._gossip.greeting.silent(members)

    async def wait_for_message(self, seconds: float) -> None:
        """Return after so many seconds, or when a message has arrived."""
        self._heard.clear()
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._heard.wait()

    async def run(self) -> None:
        """Let time pass for gossip, and make the calls of the storage that it asks for, one after
        the other, until cancelled. No failure of the storage ends it.

        :raises NodeEvicted: this node is no longer a live member.
        """
        self._is_running = True
        try:
            self._feed(Tick())
            while True:
                await self._try(await self._duties.get())
        finally:
            self._is_running = False
            self._stop_timer()

    async def _try(self, duty: Duty) -> None:
        generation = self._gossip.view.generation
        try:
            await self._perform(duty)
        except NodeEvicted:
            raise
        except StorageError as error:
            logger.debug("member %d: %r came to nothing: %r", generation, duty, error)
        except Exception:
            logger.warning("member %d: %r failed", generation, duty, exc_info=True)

    async def _perform(self, duty: Duty) -> None:
        match duty:
            case Refresh():
                await self._refresh()
            case CastVote():
                member = await self._vote(duty.target)
                if member is not None:
                    self._feed(VoteWritten(member))
            case Condemn():
                await self._condemn(duty.member)
            case Fence():
                await self._renew()  # if the storage still knows this node, the pause is over

    def _feed(self, event: GossipEvent, due: float = -math.inf) -> None:
        # A timer may be early by a rounding error.
        for action in self._gossip.step(event, max(due, self._clock())):
            self._do(action)
        self._set_timer(self._gossip.due)

    def _do(self, action: GossipAction) -> None:
        match action:
            case Send():
                self._transport.send(action.address, action.payload)
            case ResetLink():
                self._transport.reset(action.address)
            case Fence():
                self._fence()
                self._ask_for(action)
            case _:
                self._ask_for(action)

    def _ask_for(self, duty: Duty) -> None:
        if not self._duties.full():
            self._duties.put_nowait(duty)

    def _set_timer(self, due: float) -> None:
        self._stop_timer()
        if self._is_running:
            delay = max(0.0, due - self._clock())
            self._timer = asyncio.get_running_loop().call_later(delay, self._tick, due)

    def _stop_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _tick(self, due: float) -> None:
        self._timer = None
        late = self._clock() - due
        if late > SLOW_LOOP:
            self._feed(LoopLate(late))
        self._feed(Tick(), due)
