"""What each storage promises: the contracts of membership, placement and state.

Whoever writes a back end subclasses these classes and imports nothing else of ``rio``.
"""

from rio.contracts.membership import (
    MAX_METADATA_BYTES,
    MAX_VOTES,
    Member,
    MembershipSnapshot,
    MembershipStorage,
    MemberStatus,
    Registered,
    StatusChange,
    Vote,
    check_forward,
    check_metadata,
    with_vote,
)
from rio.contracts.placement import ObjectPlacement, Placement
from rio.contracts.role import Role
from rio.contracts.roles import ROLES, RoleRow
from rio.contracts.state import StateLoader, StateSaver, StateStorage, StoredState

__all__ = [
    "MAX_METADATA_BYTES",
    "MAX_VOTES",
    "ROLES",
    "Member",
    "MemberStatus",
    "MembershipSnapshot",
    "MembershipStorage",
    "ObjectPlacement",
    "Placement",
    "Registered",
    "Role",
    "RoleRow",
    "StateLoader",
    "StateSaver",
    "StateStorage",
    "StatusChange",
    "StoredState",
    "Vote",
    "check_forward",
    "check_metadata",
    "with_vote",
]
