"""When a node votes against a member, and when it condemns one."""

from __future__ import annotations

from collections.abc import Iterable

from rio.cluster.config import ClusterConfig, GossipConfig
from rio.cluster.gossip.actions import CastVote, Condemn
from rio.cluster.gossip.awareness import Awareness
from rio.cluster.gossip.membership_view import MembershipView
from rio.cluster.gossip.suspicion import Suspicion, Suspicions
from rio.cluster.gossip.votes import FreshVotes, quorum, reaches_majority
from rio.cluster.lease import GAP_POLLS
from rio.contracts.membership import Member, MembershipSnapshot, MemberStatus


class Judge:
    """Decides, after each look at the storage, whether this node votes on a member that it suspects
    or condemns it: one member at a time.

    A node votes if its suspicion has stood long enough, the member still renews its lease (if it
    does not, the lease decides), and nothing says that the node itself is the broken one.
    """

    def __init__(
        self,
        view: MembershipView,
        suspicions: Suspicions,
        awareness: Awareness,
        config: ClusterConfig,
        gossip: GossipConfig,
    ) -> None:
        self._view = view
        self._suspicions = suspicions
        self._awareness = awareness
        self._votes = FreshVotes(gossip.vote_lifetime, GAP_POLLS * config.poll_interval)
        self._vote_interval = gossip.vote_lifetime / 3
        self._renewal_gap = GAP_POLLS * max(config.renew_interval, config.poll_interval)

    def read(self, snapshot: MembershipSnapshot, now: float) -> CastVote | Condemn | None:
        """Take in a read of the membership, and return what to do."""
        self._votes.read(snapshot, now)
        suspects = (member for member in snapshot.members if member.generation in self._suspicions)
        return self._first_verdict(suspects, now) if self._suspicions else None

    def note_vote(self, member: Member, now: float) -> CastVote | Condemn | None:
        """Take in the votes on a member after this node has cast its own, and return what to do."""
        self._votes.note_written(member, now)
        return (
            self._first_verdict((member,), now) if member.generation in self._suspicions else None
        )

    def _first_verdict(self, suspects: Iterable[Member], now: float) -> CastVote | Condemn | None:
        for member in suspects:
            suspicion = self._suspicions.by_member[member.generation]
            suspicion.note_lease(member.lease_counter, now)
            verdict = self._verdict(member, suspicion, now)
            if verdict is not None:
                return verdict
        return None

    def _verdict(
        self, member: Member, suspicion: Suspicion, now: float
    ) -> CastVote | Condemn | None:
        # A member that is about to join finds out by itself that nobody reaches it.
        is_judged = member.status in (MemberStatus.ACTIVE, MemberStatus.DRAINING)
        if not is_judged or not self._may_vote(member, suspicion, now):
            return None
        if now - suspicion.voted_at >= self._vote_interval:
            suspicion.voted_at = now
            return CastVote(member.generation)
        voters = self._view.active - {member.generation}
        votes = self._votes.count(member.generation, voters, now)
        return Condemn(member) if votes >= quorum(len(voters)) else None

    def _may_vote(self, member: Member, suspicion: Suspicion, now: float) -> bool:
        active = self._view.active
        if (
            self._awareness.sick
            or self._view.generation not in active
            or now - suspicion.renewed_at > self._renewal_gap
            or self._suspicions.is_cut_off(member.generation)
        ):
            return False
        remaining = self._suspicions.remaining(member.generation, now)
        return remaining <= 0 and reaches_majority(
            active, frozenset(self._suspicions), waited=remaining <= -self._suspicions.shortest()
        )
