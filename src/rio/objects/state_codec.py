"""States to bytes and back: what is written is what will be loaded."""

from __future__ import annotations

import functools
from typing import Any

from rio.errors import BadState, StateCorrupt, StateTooLarge
from rio.objects.round_trip import Unreadable, round_trip_of
from rio.objects.state import State
from rio.transport import codec


class StateCodec:
    """Encodes and decodes the states of one class.

    :raises TypeError: ``msgspec`` cannot decode into this class.
    :raises NameError: a forward reference in the class names nothing that exists by now.
    """

    def __init__(self, state_type: type[State]) -> None:
        self._state_type = state_type
        self._trip = round_trip_of(state_type)

    def encode(self, value: Any, name: str, limit: int) -> bytes:
        """The bytes that will be decoded into ``value``, which the object has under this name.

        :raises BadState: there are none.
        :raises StateTooLarge: they are more than ``limit``.
        """
        try:
            if type(value) is not self._state_type:
                raise self._wrong_class(value)
            data = self._trip.encode(value)
            if len(data) > limit:
                raise StateTooLarge(
                    f"{name} was not saved: it takes {len(data)} bytes, and the state_limit of the"
                    f" server is {limit}: divide it among several objects, or raise the limit"
                )
            self._trip.check(value, data)
        except Unreadable as problem:
            raise BadState(
                f"{name}{problem.path} was not saved: {problem.problem}", name + problem.path
            ) from problem
        return data

    def _wrong_class(self, value: Any) -> Unreadable:
        found, declared = type(value).__name__, self._state_type.__name__
        return Unreadable("", f"it is a {found}, and declared as {declared}")

    def decode(self, data: bytes) -> State:
        """The value that was saved as these bytes.

        :raises StateCorrupt: they do not decode as a value of the class.
        """
        value: State = codec.decode(data, self._state_type, failure=StateCorrupt)
        return value


@functools.lru_cache(maxsize=2048)
def state_codec_of(state_type: type[State]) -> StateCodec:
    """The one :class:`StateCodec` of a class.

    :raises TypeError: ``msgspec`` cannot decode into this class.
    :raises NameError: a forward reference in the class names nothing that exists by now.
    """
    return StateCodec(state_type)
