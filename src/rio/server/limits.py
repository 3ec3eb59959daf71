"""What holds for the lifecycle of the objects of one type on one server."""

from __future__ import annotations

import msgspec

from rio.objects.registry import RegisteredType
from rio.server.config import ServerConfig


class Limits(msgspec.Struct, frozen=True):
    """The limits of the class where it sets some, else those of the server."""

    idle_after: float | None
    """Seconds. ``None``: the objects stay in memory."""
    activate_timeout: float
    """Seconds."""
    deactivate_timeout: float
    """Seconds."""
    state_limit: int
    """Bytes of one managed state."""
    stays: bool
    """The class says that its objects stay, also when memory is short."""


def limits_of(registered: RegisteredType, config: ServerConfig) -> Limits:
    """The limits of a type."""
    own = registered.cls.__rio_limits__
    names = own.__struct_fields__
    values = {name: getattr(own, name) for name in names}
    given = {name: value for name, value in values.items() if value is not msgspec.UNSET}
    inherited = {name: getattr(config, name) for name in names if name not in given}
    return Limits(
        **given,
        **inherited,
        state_limit=config.state_limit,
        stays=given.get("idle_after", ...) is None,
    )
