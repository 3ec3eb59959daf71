"""What a thing is called: an object's identity, a server's address, a class's name on the wire."""

from __future__ import annotations

from typing import NamedTuple, Self

from rio.errors import BadAddress, BadIdentity, RioError

MAX_TYPE_NAME_BYTES = 128
MAX_ID_BYTES = 512


class ObjectId(NamedTuple):
    """The identity of one object in the whole cluster: two strings, compared exactly."""

    type_name: str
    id: str

    def __str__(self) -> str:
        return f"{self.type_name}/{self.id}"

    @classmethod
    def checked(cls, type_name: str, id: str) -> Self:
        """An identity whose parts fit the wire and every storage.

        :raises BadIdentity: a part is no string, is empty, is too long or cannot be encoded.
        """
        check_name("type name", type_name, MAX_TYPE_NAME_BYTES)
        check_name("object id", id, MAX_ID_BYTES)
        return cls(type_name, id)


def check_name(what: str, value: str, limit: int, failure: type[RioError] = BadIdentity) -> None:
    """Make sure that ``value`` is a string of 1 to ``limit`` bytes of UTF-8.

    :raises BadIdentity: it is not (``failure`` where a class or a handler says the name).
    """
    if not isinstance(value, str):
        raise failure(f"{what} must be a str, got {type(value).__name__}: {value!r}")
    if not value:
        raise failure(f"{what} must not be empty")
    try:
        size = len(value.encode())
    except UnicodeEncodeError as error:
        raise failure(f"{what} {value!r} is not valid Unicode text: {error}") from error
    if size > limit:
        raise failure(f"{what} {value[:32]!r}... is {size} bytes long, the limit is {limit}")


class Address(NamedTuple):
    """Where a server listens. Its text form is ``host:port``; an IPv6 host stands in brackets."""

    host: str
    port: int

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read ``host:port`` or ``[ipv6]:port``.

        :raises BadAddress: the text has another form or the port is not 0 to 65535.
        """
        host, separator, port = text.rpartition(":")
        bracketed = host.startswith("[") and host.endswith("]")
        if bracketed:
            host = host[1:-1]
        if not separator or not host or (":" in host and not bracketed):
            raise BadAddress(f"{text!r} is not an address: write HOST:PORT, or [IPV6]:PORT")
        if not (port.isascii() and port.isdigit() and int(port) <= 65535):
            raise BadAddress(
                f"{text!r} is not an address: the port must be a number from 0 to 65535"
            )
        return cls(host, int(port))


def type_name_of(cls: type) -> str:
    """The name under which ``cls`` travels: what its ``type_name=`` said, or the class's own "
    "name."""
    name = cls.__dict__.get("__rio_type_name__", cls.__name__)
    assert isinstance(name, str)
    return name
