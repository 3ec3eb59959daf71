"""Membership among equals: each node renews its own lease and watches the leases of others. The storage is the only referee."""

from __future__ import annotations

import logging
import random
from collections.abc import Coroutine
from typing import Any, TypedDict, Unpack

from rio.clock import Clock, now
from rio.cluster.config import ClusterConfig
from rio.cluster.membership import Member, MembershipStorage, MemberStatus
from rio.cluster.provider import ClusterProvider
from rio.errors import ConfigurationError

logger = logging.getLogger("rio.cluster")


class RioRsSettings(TypedDict, total=False):
    """The settings of rio-rs, as keywords. Their meaning here: :meth:`ClusterConfig.from_rio_rs`."""

    interval_secs: float
    num_failures_threshold: int
    interval_secs_threshold: float
    limit_monitored_members: int | None
    drop_inactive_after_secs: float | None


class PeerToPeerClusterProvider(ClusterProvider):
    """A node that is fenced before it is evicted.

    It renews its lease every ``renew_interval`` and admits calls until ``lease_local`` after the last success. It reads the membership
    every ``poll_interval`` and declares a member dead whose lease counter stood still for ``lease_evict``. The two run side by side, so a
    slow read never delays a renewal. When the storage is away the node pauses, evicts nobody, and goes on when it is back.

    ``config``: a :class:`ClusterConfig`; or the settings of rio-rs as keywords, which it is computed from.

    :raises ConfigurationError: both were given, or they cannot work.
    """

    def __init__(
        self,
        storage: MembershipStorage,
        config: ClusterConfig | None = None,
        *,
        clock: Clock = now,
        rng: random.Random | None = None,
        **rio_rs: Unpack[RioRsSettings],
    ) -> None:
        if rio_rs and config is not None:
            raise ConfigurationError(f"give either config or the settings of rio-rs, not both: {', '.join(rio_rs)}")
        super().__init__(storage, ClusterConfig.from_rio_rs(**rio_rs) if rio_rs else config, clock=clock, rng=rng)

    def _lease_duration(self) -> float:
        return self._config.lease_local

    def _loops(self) -> list[Coroutine[Any, Any, None]]:
        return [*super()._loops(), self._repeat("renewing the lease", self._config.renew_interval, self._renew)]

    async def _renew(self) -> None:
        sent = self._clock()
        if await self._calls.run(self._storage.renew(self.generation)):
            self._extend(sent)
        else:
            self._lost("is not live any more")

    async def _evict(self, member: Member) -> None:
        """Declare dead what is still as silent as it was read, whatever its status: joining, active, draining or condemned."""
        change = await self._calls.run(
            self._storage.set_status(member.generation, member.status, MemberStatus.DEAD, expected_counter=member.lease_counter)
        )
        if change.applied:
            silence = self._config.lease_evict
            logger.warning("member %d evicted member %d (%s), silent for %g s", self.generation, member.generation, member.address, silence)
