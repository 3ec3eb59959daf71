"""The contracts of storage: what a back end for members, placements or states must do.

To write a back end, subclass a contract. Besides the names of this module a back end needs only
``rio.ObjectId`` and :mod:`rio.errors`. The test suites in :mod:`rio.testing.conformance` show
whether it keeps the contract.
"""

from rio.contracts.membership import (
    MAX_MANIFEST_BYTES,
    MAX_METADATA_BYTES,
    MAX_VOTES,
    Member,
    MembershipSnapshot,
    MembershipStorage,
    MemberStatus,
    Registered,
    Renewal,
    StatusChange,
    Vote,
    add_vote,
    check_forward,
    check_manifest,
    check_metadata,
    decode_votes,
    digest_manifest,
    encode_votes,
    make_cluster_id,
)
from rio.contracts.placement import ObjectPlacement, Placement
from rio.contracts.role import Role
from rio.contracts.roles import ROLES, RoleRow
from rio.contracts.state import (
    Batch,
    SimpleStateStorage,
    StateStorage,
    StoredObject,
    StoredState,
    TypedStateStorage,
)

__all__ = [
    "MAX_MANIFEST_BYTES",
    "MAX_METADATA_BYTES",
    "MAX_VOTES",
    "ROLES",
    "Batch",
    "Member",
    "MemberStatus",
    "MembershipSnapshot",
    "MembershipStorage",
    "ObjectPlacement",
    "Placement",
    "Registered",
    "Renewal",
    "Role",
    "RoleRow",
    "SimpleStateStorage",
    "StateStorage",
    "StatusChange",
    "StoredObject",
    "StoredState",
    "TypedStateStorage",
    "Vote",
    "add_vote",
    "check_forward",
    "check_manifest",
    "check_metadata",
    "decode_votes",
    "digest_manifest",
    "encode_votes",
    "make_cluster_id",
]
