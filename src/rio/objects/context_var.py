"""Values of the program's own that travel with calls."""

from __future__ import annotations

import contextvars
from collections.abc import Mapping
from functools import cached_property
from typing import Any, Final, Generic, TypeVar, final, overload

import msgspec

from rio import type_hints
from rio._core.dispatch import CARRIED_VALUES, carry_values
from rio.errors import BadMessage, ConfigurationError
from rio.identity import check_name
from rio.transport import codec
from rio.transport.call_context import context_without_chain, read_context

T = TypeVar("T")
D = TypeVar("D")

MAX_VALUES: Final = 16
"""Values that travel with one call."""
MAX_VALUE_BYTES: Final = 1024
"""Of one value in MessagePack."""
MAX_BYTES: Final = 4096
"""Of all values and their names together."""
MAX_NAME_BYTES: Final = 64

_HELD: Final[contextvars.ContextVar[Values | None]] = CARRIED_VALUES
"""What the running code sees. The core sets it for each turn."""
_MISSING: Final[Any] = object()
_TYPES: dict[str, Any] = {}
"""The declared type of each variable, by its name."""


class Values:
    """The values that a piece of code sees, and that travel with the calls that it makes. They do
    not change: whoever sets a variable makes others.
    """

    def __init__(self, encoded: Mapping[str, msgspec.Raw], decoded: Mapping[str, Any]) -> None:
        self.encoded = encoded
        """By name, those of variables too that this process does not know: they travel on."""
        self.decoded = decoded

    @cached_property
    def context(self) -> bytes | None:
        """The context of a call that carries them and nothing else."""
        return context_without_chain(self.encoded)

    def with_value(self, name: str, data: msgspec.Raw, value: Any) -> Values:
        """The same, with another value of one variable.

        :raises TypeError: they are too many, or too large.
        """
        encoded = {**self.encoded, name: data}
        problem = _excess_of(encoded)
        if problem:
            raise TypeError(problem)
        return Values(encoded, {**self.decoded, name: value})

    def without(self, name: str) -> Values | None:
        """The same, without a value of one variable; ``None``: nothing is left."""
        encoded = {each: data for each, data in self.encoded.items() if each != name}
        decoded = {each: value for each, value in self.decoded.items() if each != name}
        return Values(encoded, decoded) if encoded else None


_NOTHING: Final = Values({}, {})


def read_values(context: bytes) -> Values | None:
    """The values that came with a call.

    :raises BadMessage: they are too many or too large, or one is not of its variable's type.
    :raises ProtocolError: the bytes are no context.
    """
    encoded = read_context(context).values
    if not encoded:
        return None
    problem = _excess_of(encoded)
    if problem:
        raise BadMessage(f"a call came with more than it may carry: {problem}")
    known = {name: _read(name, data) for name, data in encoded.items() if name in _TYPES}
    return Values(encoded, known)


def current_values() -> Values | None:
    """The values that the running code sees."""
    return _HELD.get()


def _read(name: str, data: msgspec.Raw) -> Any:
    try:
        return codec.decode(bytes(data), _TYPES[name])
    except BadMessage as error:
        raise BadMessage(f"the value of rio.ContextVar {name!r}: {error}") from error


def _excess_of(encoded: Mapping[str, msgspec.Raw]) -> str:
    """What of these values is too much; empty if nothing is."""
    if len(encoded) > MAX_VALUES:
        return f"{len(encoded)} values of rio.ContextVar, and a call carries {MAX_VALUES}"
    size = 0
    for name, data in encoded.items():
        length = len(bytes(data))
        size += length + len(name.encode())
        if length > MAX_VALUE_BYTES:
            return (
                f"the value of rio.ContextVar {name!r} takes {length} bytes, and may take"
                f" {MAX_VALUE_BYTES}"
            )
    if size > MAX_BYTES:
        return f"the values of rio.ContextVar take {size} bytes, and a call carries {MAX_BYTES}"
    return ""


@final
class Token(Generic[T]):
    """What :meth:`ContextVar.set` returns, for :meth:`ContextVar.reset`."""

    def __init__(self, var: ContextVar[T], earlier: tuple[msgspec.Raw, T] | None) -> None:
        self._var = var
        self._earlier = earlier
        self._is_used = False


@final
class ContextVar(Generic[T]):
    """A value that travels with calls: the tenant, the user, the language. ::

        tenant = rio.ContextVar("tenant", str, default="")

        tenant.set("acme")
        await client.ref(Cart, "7").add(Item("book"))    # its handler finds "acme"

    A handler sees the values that its caller saw when it made the call, and so do the handlers that
    it calls, on whatever node; the messages of timers and :meth:`rio.MessageRouter.publish` carry
    them too. A handler may set others, for the rest of its turn: nothing flows back to the caller,
    and nothing of it is there for another turn. Lifecycle hooks see none, as an object comes to
    life for everybody.

    Make one for each name, in a module that clients and servers import. ``type`` is one that
    MessagePack can carry, as that of a message's field. A value takes up to 1 KiB; a call carries
    up to 16 values, which take up to 4 KiB together. A call whose value is not of the ``type`` is
    refused with :class:`rio.errors.BadMessage`, and its handler does not run. A process passes on
    the values of variables that it does not know. Values come from clients too: they are no proof
    of anything.

    :raises TypeError: MessagePack cannot carry the type.
    :raises ConfigurationError: there is a variable of this name with another type.
    :raises BadIdentity: the name has not 1 to 64 bytes.
    """

    def __init__(self, name: str, type: type[T], /, *, default: T = _MISSING) -> None:
        check_name("name of a context variable", name, MAX_NAME_BYTES)
        codec.check_serialisable(type)
        if _TYPES.setdefault(name, type) != type:
            other = type_hints.full_name(_TYPES[name])
            raise ConfigurationError(f"rio.ContextVar {name!r} is there already, for {other}")
        self._name = name
        self._type = type
        self._default = default
        carry_values()

    @property
    def name(self) -> str:
        """Under which its value travels."""
        return self._name

    @overload
    def get(self) -> T: ...
    @overload
    def get(self, default: D, /) -> T | D: ...
    def get(self, *default: Any) -> Any:
        """The value that the running code sees; without one, ``default``, or that of the variable.

        :raises LookupError: there is none of these.
        """
        found = self._find()
        if found is not None:
            return found[1]
        for value in (*default, self._default):
            if value is not _MISSING:
                return value
        raise LookupError(f"{self!r} has no value here, and no default")

    def set(self, value: T, /) -> Token[T]:
        """Have the code after this, in the same task, see ``value``. It is copied.

        :raises TypeError: it is not of the variable's type, or takes more than may travel.
        """
        try:
            data = msgspec.Raw(codec.encode(value, failure=BadMessage))
            copied = codec.decode(bytes(data), self._type)
        except BadMessage as error:
            raise TypeError(f"{self!r}: {error}") from error
        token = Token(self, self._find())
        _HELD.set((_HELD.get() or _NOTHING).with_value(self._name, data, copied))
        return token

    def reset(self, token: Token[T], /) -> None:
        """Have the code after this see what it saw before the :meth:`set` that returned ``token``.

        :raises ValueError: the token is that of another variable.
        :raises RuntimeError: it was used before.
        """
        if token._var is not self:
            raise ValueError(f"{self!r}: the token is that of {token._var!r}")
        if token._is_used:
            raise RuntimeError(f"{self!r}: the token was used before")
        token._is_used = True
        values = _HELD.get() or _NOTHING
        if token._earlier is None:
            _HELD.set(values.without(self._name))
        else:
            _HELD.set(values.with_value(self._name, *token._earlier))

    def _find(self) -> tuple[msgspec.Raw, T] | None:
        values = _HELD.get()
        if values is None or self._name not in values.encoded:
            return None
        data = values.encoded[self._name]
        if self._name in values.decoded:
            return data, values.decoded[self._name]
        return data, _read(self._name, data)  # it came before there was this variable

    def __repr__(self) -> str:
        return f"<rio.ContextVar {self._name!r}>"
