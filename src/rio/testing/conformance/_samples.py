"""Identities that the suites use."""

from __future__ import annotations

from rio.identity import MAX_ID_BYTES, MAX_TYPE_NAME_BYTES, ObjectId

LOOKALIKES = [
    ObjectId("a:b", "c"),
    ObjectId("a", "b:c"),
    ObjectId("a/b", "c"),
    ObjectId("a", "b/c"),
    ObjectId("a", "c"),
    ObjectId("A", "c"),
    ObjectId("a", "C"),
    ObjectId("a", "c "),
    ObjectId("a", "c\0"),
    ObjectId("a", "c\0d"),
    ObjectId("a\0", "c"),
    ObjectId("a", "\0"),
    ObjectId("a", "7"),
    ObjectId("a", "07"),
    ObjectId("a", "7.0"),
    ObjectId("a", "%"),
    ObjectId("a", "_"),
    ObjectId("a", "'; DROP TABLE rio_placement; --"),
    ObjectId("a", "é"),
    ObjectId("a", "e\u0301"),
    ObjectId("a", "\N{GRINNING FACE}"),
    ObjectId("a", "[::1]:80"),
    ObjectId("t" * MAX_TYPE_NAME_BYTES, "i" * MAX_ID_BYTES),
    ObjectId("t" * MAX_TYPE_NAME_BYTES, "i" * (MAX_ID_BYTES - 1)),
    ObjectId("t" * MAX_TYPE_NAME_BYTES, "é" * (MAX_ID_BYTES // 2)),
]
"""Identities that a careless key would confuse."""

REAL = 1_800_000_000_000_000
"""A number as members and claims get it: microseconds since 1970."""
SAME_IN_32_BITS = 1 << 32
"""What makes of a number another one whose lower 32 bits are the same."""

ADA = ObjectId("Account", "ada")
