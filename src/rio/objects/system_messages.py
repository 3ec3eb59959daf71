"""The messages that every object answers, whatever its class."""

from __future__ import annotations

from rio.objects.message import Message

RESERVED_PREFIX = "rio."
"""Names of types and messages that begin with it are not for users."""


class Subscribe(Message[tuple[int, int]], type_name="rio.subscribe", idempotent=True):
    """Asks for the object's events. From now on they go to the connection on which this came.

    The answer: the token of the activation, and how many events it had published before. The first
    event of the subscription is the next one.
    """

    number: int
    """The sender's number for the subscription."""


class Shutdown(Message[None], type_name="rio.shutdown", idempotent=True):
    """Asks for the object's deactivation, which starts after the turn that runs. It takes no turn,
    and does not bring the object into memory.
    """

    force: bool = False
    """Whether the turn that runs is cancelled."""


class Publish(Message[None], type_name="rio.publish"):
    """Hands an event to the subscribers of the object. A member of the cluster sends it. It takes
    no turn, and does not bring the object into memory: then nobody listens.
    """

    name: str
    """The type name of the event."""
    payload: bytes
    """The event in MessagePack."""
