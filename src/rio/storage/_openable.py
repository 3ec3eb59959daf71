"""A role that knows whether it is open."""

from __future__ import annotations

from rio.errors import StorageClosed


class Openable:
    """Put it before the contract among the bases of a role that has nothing else to prepare."""

    _is_open = False

    def __repr__(self) -> str:
        return type(self).__name__

    async def prepare(self) -> None:
        """Open the role. Idempotent."""
        self._is_open = True

    async def close(self) -> None:
        """Close the role. Idempotent."""
        self._is_open = False

    def _check_open(self) -> None:
        """:raises StorageClosed: the role was not prepared, or it is closed."""
        if not self._is_open:
            raise StorageClosed(
                f"{type(self).__name__} is not open: call prepare() first, or use 'async with'"
            )
