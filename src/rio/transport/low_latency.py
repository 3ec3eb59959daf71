"""What a client or a server is told about latency."""

from __future__ import annotations

from typing import Literal, TypeAlias

from rio._core.spin import Spinner
from rio.errors import ConfigurationError

Latency: TypeAlias = Literal["normal", "low"]


def make_spinner(latency: Latency) -> Spinner | None:
    """What ``latency=`` asks for; ``None``: the loop sleeps as ever.

    :raises ConfigurationError: it is none of the two.
    """
    if latency not in ("normal", "low"):
        raise ConfigurationError(f'latency= takes "normal" or "low", got {latency!r}')
    return Spinner() if latency == "low" else None
