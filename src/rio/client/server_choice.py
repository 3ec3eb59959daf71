"""Which server is asked for an object whose place is not known."""

from __future__ import annotations

import math
from collections.abc import Callable, Container
from typing import NamedTuple

from rio._core.calls import Call
from rio._core.rendezvous import Ranking
from rio.client.access import ClusterAccess
from rio.client.members import Members
from rio.client.pool import Peer, Pool


class Candidates(NamedTuple):
    """Servers among which a choice is made."""

    peers: list[Peer]
    ranking: Ranking
    """Of the same servers, in the same order."""


class ServerChoice:
    """Chooses a server that may activate a new object, or knows where the object is.

    The preferred server comes first, if there is one and it has not refused. Of the others, all
    clients choose the same one for an object, so that its first calls meet on one server, in their
    order, without a redirect. When servers come or go, few objects are asked for elsewhere.
    """

    def __init__(
        self, access: ClusterAccess, pool: Pool, members: Members, now: Callable[[], float]
    ) -> None:
        self._access = access
        self._pool = pool
        self._members = members
        self._now = now
        self._best = _candidates([])
        """The best servers for a call that no server has refused; good until ``_best_until``."""
        self._best_until = -math.inf

    def choose(self, call: Call) -> Peer | None:
        """``None``: every active server has refused the call, or there is no active server."""
        preferred = self._access.preferred_address
        if preferred and preferred not in (call.refusals or ()):
            return self._pool.peer(preferred)
        peers, ranking = self._best_for(call)
        if not peers:
            return None
        return peers[ranking.choose(f"{call.type_name}/{call.id}", call.attempts)]

    def reconsider(self) -> None:
        """Servers came or went, or have become better or worse places for new objects."""
        self._best_until = -math.inf

    def _best_for(self, call: Call) -> Candidates:
        if call.refusals:
            return self._best_peers(call.refusals)[0]
        if self._now() >= self._best_until:
            self._best, self._best_until = self._best_peers(())
        return self._best

    def _best_peers(self, refusals: Container[str]) -> tuple[Candidates, float]:
        """The active servers that rank best, but for those that have refused, and until when that
        stays so by itself.
        """
        moment = self._now()
        peers = [
            self._pool.peer(member.address)
            for member in self._members.snapshot.active
            if member.address not in refusals
        ]
        best = min((peer.rank(moment) for peer in peers), default=None)
        until = min(
            (peer.avoid_until for peer in peers if moment < peer.avoid_until), default=math.inf
        )
        return _candidates([peer for peer in peers if peer.rank(moment) == best]), until


def _candidates(peers: list[Peer]) -> Candidates:
    return Candidates(peers, Ranking([peer.address for peer in peers]))
