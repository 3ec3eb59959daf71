"""The messages that every object answers, whatever its class."""

from __future__ import annotations

from rio.objects.message import Message

RESERVED_PREFIX = "rio."
"""Of the names of types and messages that are not for users."""


class Subscribe(Message[None], type_name="rio.subscribe", idempotent=True):
    """Every object answers it: from now on its events go to the connection on which this came."""

    number: int
    """What the sender calls the subscription."""


class Shutdown(Message[None], type_name="rio.shutdown", idempotent=True):
    """Every object answers it: it is deactivated after this turn."""
