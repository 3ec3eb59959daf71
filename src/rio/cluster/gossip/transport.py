"""The interface of what carries gossip between nodes."""

from __future__ import annotations

from typing import Protocol


class GossipTransport(Protocol):
    """Carries messages to other nodes: each arrives once or never, in any order, and nobody waits
    for it. :class:`rio.cluster.links.GossipLinks` is one.
    """

    def send(self, address: str, payload: bytes) -> None:
        """Send one message, or lose it. It reaches
        :meth:`rio.cluster.provider.ClusterProvider.receive` of the node at ``address``.
        """

    def reset(self, address: str) -> None:
        """Use a new way to this address: something is wrong with the present one."""
