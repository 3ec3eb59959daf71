"""What placements and states do alike: they know to which cluster they belong."""

from __future__ import annotations

from rio.contracts.role import Role


async def check_adoption(role: Role, *, recorded: bool) -> None:
    """The first cluster that adopts a storage keeps it, until another one names it.

    ``recorded``: whether the back end records the cluster. Otherwise it takes every cluster.
    """
    assert await role.adopt("first") == "first"
    assert await role.adopt("first") == "first"
    if recorded:
        assert await role.adopt("second") == "first"
        assert await role.adopt("second", instead_of="third") == "first"
    assert await role.adopt("second", instead_of="first") == "second"
    assert await role.adopt("first") == ("second" if recorded else "first")
