"""What clients may use of a node, so that none keeps the others from theirs.

A client is known by its key, over all of its connections; by its address where there are no keys.
Nodes of the cluster have no quotas, and a part of each limit is kept for them.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, Protocol

from rio._core.budget import CLIENT_SHARE, Usage
from rio.errors import Overloaded
from rio.identity import ObjectId
from rio.logs import Logger, SparingLog
from rio.server.config import ServerConfig
from rio.server.descriptors import descriptor_limit, reserve_of

logger = Logger("rio.server")

LOOK_INTERVAL = 10.0
"""Seconds between two looks for clients that have left."""
MOST_STRANGERS = 1024
"""Connections that have not introduced themselves yet, at most; an eighth of the descriptors that
the process may have, if that is less.
"""


class TokenBucket:
    """Allows ``rate`` things a second, and up to ``burst`` at once."""

    __slots__ = ("_at", "_burst", "_rate", "_tokens")

    def __init__(self, rate: float, burst: float, now: float) -> None:
        self._rate = rate
        self._burst = burst
        self._tokens = burst
        self._at = now

    def take(self, now: float) -> float:
        """Take a token, and return 0; or return the seconds until there is one."""
        self._fill(now)
        if self._tokens < 1:
            return (1 - self._tokens) / self._rate
        self._tokens -= 1
        return 0.0

    def give_back(self) -> None:
        """A token was not needed."""
        self._tokens = min(self._burst, self._tokens + 1)

    def is_full(self, now: float) -> bool:
        """Whether it is as good as a new one."""
        self._fill(now)
        return self._tokens >= self._burst

    def _fill(self, now: float) -> None:
        if now > self._at:
            self._tokens = min(self._burst, self._tokens + (now - self._at) * self._rate)
            self._at = now


class Account(Usage):
    """What one client uses of the node, and what it is refused."""

    def __init__(self, name: str, log: SparingLog, activations: TokenBucket | None) -> None:
        self.name = name
        """How the log calls it."""
        self.activations = activations
        """``None``: they are not limited."""
        self._log = log

    def refuse(self, limit: str, text: str, detail: Any = None) -> Overloaded:
        self._log.warn(limit, "%s is refused: %s", self.name, text)
        return super().refuse(limit, text, detail)


class Stranger(Protocol):
    """A connection that has not introduced itself."""

    def turn_away(self, reason: str) -> None:
        """Close at once: others need its place."""
        ...


class Peer(Stranger, Protocol):
    """A connection, as far as quotas are about it."""

    usage: Usage
    is_node: bool


class Quotas:
    """What the clients of one node use, and what each of them may."""

    def __init__(self, config: ServerConfig, now: Callable[[], float]) -> None:
        self._config = config
        self._now = now
        self._look_at = -math.inf
        self.log = SparingLog(logger, now)
        self._accounts: dict[str, Account] = {}
        self._connections = 0
        """Those of all clients."""
        self._strangers: dict[str, dict[Stranger, None]] = {}
        """The connections that have not introduced themselves, oldest first, by address."""
        self._stranger_count = 0
        descriptors = descriptor_limit()
        self._most_strangers = min(MOST_STRANGERS, descriptors // 8)
        self.connection_limit = config.connection_limit or max(
            1, descriptors - 2 * reserve_of(descriptors) - self._most_strangers
        )

    # --- strangers --------------------------------------------------------------------------------

    def meet(self, peer: Stranger, address: str) -> None:
        """A connection was made. If there are too many that have not introduced themselves, the
        oldest of the address that has most of them goes: one that is honest takes milliseconds.
        """
        self._strangers.setdefault(address, {})[peer] = None
        self._stranger_count += 1
        if self._stranger_count > self._most_strangers:
            busiest = max(self._strangers, key=lambda each: len(self._strangers[each]))
            oldest = next(iter(self._strangers[busiest]))
            self.part(oldest, busiest)
            oldest.turn_away(
                f"{self._most_strangers} connections have not introduced themselves yet"
            )

    def part(self, peer: Stranger, address: str) -> None:
        """It has introduced itself, or is gone. Idempotent."""
        strangers = self._strangers.get(address, {})
        if peer in strangers:
            del strangers[peer]
            self._stranger_count -= 1
            if not strangers:
                del self._strangers[address]

    # --- connections ------------------------------------------------------------------------------

    def check_room(self, key: str | None, address: str) -> None:
        """Make sure that a client may have one more connection. ``key``: the id of its key. It has
        proven nothing yet, so it is told nothing of how many there are.

        :raises Overloaded: it may not.
        """
        name = _name_of(key, address)
        account = self._accounts.get(name)
        own = 0 if account is None else account.connections
        if own >= CLIENT_SHARE * (self.connection_limit - self._connections):
            raise Overloaded(
                f"{name} may have no further connection to this node: clients have nearly all"
                f" (connection_limit: {self.connection_limit}); share connections, or raise the"
                " limit"
            )

    def enter(self, key: str | None, address: str) -> Account:
        """A client has introduced itself: count its connection."""
        name = _name_of(key, address)
        account = self._accounts.get(name)
        if account is None:
            account = self._accounts[name] = self._open(name)
        account.connections += 1
        self._connections += 1
        return account

    def leave(self, account: Usage) -> None:
        """A connection that has entered is gone."""
        account.connections -= 1
        self._connections -= 1

    def _open(self, name: str) -> Account:
        rate, burst = self._config.activation_rate, self._config.activation_burst
        bucket = None if rate is None else TokenBucket(rate, burst, self._now())
        return Account(name, self.log, bucket)

    def look(self) -> None:
        """Forget the clients that are gone and have nothing to wait for. Call it now and then."""
        now = self._now()
        if now < self._look_at:
            return
        self._look_at = now + LOOK_INTERVAL
        self._accounts = {
            name: account
            for name, account in self._accounts.items()
            if account.connections
            or not (account.activations is None or account.activations.is_full(now))
        }

    # --- subscriptions and activations ------------------------------------------------------------

    def why_not_subscribe(self, peer: Peer, count: int) -> Overloaded | None:
        """Why a connection that has ``count`` subscriptions may not have one more, or ``None``."""
        usage = peer.usage
        if peer.is_node:
            return None
        if count >= self._config.subscription_limit:
            return usage.refuse(
                "subscription_limit",
                f"{count} subscriptions are open on this connection (subscription_limit): end some,"
                " use further connections, or raise the limit",
            )
        if usage.subscriptions >= self._config.client_subscription_limit:
            return usage.refuse(
                "client_subscription_limit",
                f"this client has {usage.subscriptions} subscriptions on this node"
                " (client_subscription_limit): end some, or raise the limit",
            )
        return None

    def why_not_activate(self, peer: Peer, object_id: ObjectId) -> Overloaded | None:
        """Why a client may bring no further object to life now, or ``None``: then it has taken
        one of its tokens.
        """
        account = peer.usage
        if peer.is_node or not isinstance(account, Account) or account.activations is None:
            return None
        wait = account.activations.take(self._now())
        if not wait:
            return None
        return account.refuse(
            "activation_rate",
            f"{object_id} is not in memory, and this client has brought too many objects to life on"
            f" this node: it may have {self._config.activation_rate:g} a second (activation_rate)"
            f" after the first {self._config.activation_burst} (activation_burst)",
            [wait],
        )

    def give_back_activation(self, peer: Peer) -> None:
        """The object lives elsewhere."""
        account = peer.usage
        if not peer.is_node and isinstance(account, Account) and account.activations is not None:
            account.activations.give_back()


def _name_of(key: str | None, address: str) -> str:
    return f"the client at {address}" if key is None else f"key {key!r}"
