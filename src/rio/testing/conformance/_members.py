"""Members in the status that a test needs."""

from __future__ import annotations

from rio.contracts.membership import MembershipStorage, MemberStatus


async def register_in(
    membership: MembershipStorage, status: MemberStatus, address: str = "h:1"
) -> int:
    """Register a member, move it to a status, and return its generation."""
    generation = (await membership.register(address)).generation
    if status != MemberStatus.JOINING:
        change = await membership.set_status(generation, MemberStatus.JOINING, status)
        assert change.applied
    return generation
