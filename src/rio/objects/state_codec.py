"""States to bytes and back: what is written is what will be loaded."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from typing import Any, Final, NamedTuple

import msgspec

from rio import type_hints
from rio.contracts.state import ENCRYPTED
from rio.errors import BadState, StateCorrupt, StateTooLarge, StateTooNew
from rio.objects import upcasters
from rio.objects.round_trip import Unreadable, round_trip_of
from rio.objects.state import State
from rio.transport import codec

KeptFields = Mapping[str, msgspec.Raw]
"""The fields of a saved state that the class does not know, as they were saved."""

NO_FIELDS: Final[KeptFields] = {}

_fields_of = msgspec.msgpack.Decoder(dict[str, msgspec.Raw]).decode


class LoadedState(NamedTuple):
    """What was made of a saved state."""

    value: State
    kept: KeptFields
    """Whoever saves the state again has to give them back."""


class StateCodec:
    """Encodes and decodes the states of one class.

    :raises TypeError: ``msgspec`` cannot decode into this class.
    :raises NameError: a forward reference in the class names nothing that exists by now.
    """

    def __init__(self, state_type: type[State]) -> None:
        self._state_type = state_type
        self._trip = round_trip_of(state_type)
        config = state_type.__struct_config__
        self._known = {*state_type.__struct_encode_fields__, config.tag_field}

    def encode(self, value: Any, kept: KeptFields, name: str, limit: int) -> bytes:
        """The bytes that will be decoded into ``value``, which the object has under this name, and
        the fields that are kept.

        :raises BadState: there are none.
        :raises StateTooLarge: they are more than ``limit``.
        """
        try:
            if type(value) is not self._state_type:
                raise self._wrong_class(value)
            own = self._trip.encode(value)
            data = codec.ENCODER.encode({**_fields_of(own), **kept}) if kept else own
            if len(data) > limit:
                raise StateTooLarge(
                    f"{name} was not saved: it takes {len(data)} bytes, and the state_limit of the"
                    f" server is {limit}: divide it among several objects, or raise the limit"
                )
        except Unreadable as problem:
            raise BadState(
                f"{name}{problem.path} was not saved: {problem.problem}", name + problem.path
            ) from problem
        return data

    def _wrong_class(self, value: Any) -> Unreadable:
        found, declared = type(value).__name__, self._state_type.__name__
        return Unreadable("", f"it is a {found}, and declared as {declared}")

    def decode(self, data: bytes, schema: int) -> LoadedState:
        """What was saved as these bytes, under this schema; 0 if the class gave none.

        :raises StateCorrupt: they do not decode as a value of the class, or an upcaster failed.
        :raises StateTooNew: the class has a lower schema.
        """
        if data[:1] == ENCRYPTED:
            raise StateCorrupt(
                "the state is encrypted: open its storage as rio.storage.EncryptedState, with the"
                " keyring"
            )
        data = self._to_current(data, schema or 1)
        value: State = codec.decode(data, self._state_type, failure=StateCorrupt)
        fields = _fields_of(data)
        if fields.keys() <= self._known:
            return LoadedState(value, NO_FIELDS)
        unknown = fields.keys() - self._known
        return LoadedState(value, {name: fields[name].copy() for name in unknown})

    def _to_current(self, data: bytes, schema: int) -> bytes:
        known = upcasters.schema_of(self._state_type)
        if schema == known:
            return data
        if schema > known:
            raise StateTooNew(
                f"the state {type_hints.full_name(self._state_type)} was saved under schema"
                f" {schema}, this node knows {known}",
                [schema, known],
            )
        old = codec.decode(data, dict[str, Any], failure=StateCorrupt)
        fields = upcasters.to_current(self._state_type, old, schema)
        return codec.encode(fields, failure=StateCorrupt)


@functools.lru_cache(maxsize=2048)
def state_codec_of(state_type: type[State]) -> StateCodec:
    """The one :class:`StateCodec` of a class.

    :raises TypeError: ``msgspec`` cannot decode into this class.
    :raises NameError: a forward reference in the class names nothing that exists by now.
    """
    return StateCodec(state_type)
