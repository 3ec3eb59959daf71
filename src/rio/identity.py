"""Names: the identity of an object, the address of a server, the name of a class on the wire."""

from __future__ import annotations

import os
import sys
from ipaddress import ip_address
from typing import NamedTuple, Self

from rio._core import wire
from rio.errors import BadAddress, BadIdentity, BadRegistration, RioError

MAX_TYPE_NAME_BYTES = wire.MAX_TYPE_NAME
"""Bytes of UTF-8 that the name of a type, a message, an error or a state can have."""
MAX_ID_BYTES = wire.MAX_ID
"""Bytes of UTF-8 that the id of an object can have."""


UNIX = "unix:"
"""What stands before the path in the address of a server at a socket file."""
MAX_SOCKET_PATH = 107 if sys.platform == "linux" else 103
"""Bytes of the path of a socket, at most: those of a ``sockaddr_un`` without the NUL at its end."""


class ObjectId(NamedTuple):
    """The identity of an object in its cluster: two strings, which ``rio`` compares exactly.

    ``type_name`` is the name of the object's type, 1 to 128 bytes of UTF-8. ``id`` tells the
    objects of a type apart; it has 1 to 512 bytes. ``str()`` gives ``type_name/id``. Making the
    tuple checks nothing; :meth:`check` does.
    """

    type_name: str
    id: str

    def __str__(self) -> str:
        return f"{self.type_name}/{self.id}"

    @classmethod
    def check(cls, type_name: str, id: str) -> Self:
        """Make an identity, and make sure that its parts fit the wire and every storage.

        :raises BadIdentity: a part is not a string, is empty, is too long or is not valid Unicode.
        """
        check_name("type name", type_name, MAX_TYPE_NAME_BYTES)
        check_name("object id", id, MAX_ID_BYTES)
        return cls(type_name, id)


def check_name(what: str, value: str, limit: int, failure: type[RioError] = BadIdentity) -> None:
    """Make sure that ``value`` is a string of 1 to ``limit`` bytes of UTF-8.

    ``what`` names the value in the text of the error.

    :raises BadIdentity: it is not. A caller can give another class of error as ``failure``.
    """
    if not isinstance(value, str):
        raise failure(f"{what} must be a str, got {type(value).__name__}: {value!r:.200}")
    if not value:
        raise failure(f"{what} must not be empty: give it 1 to {limit} bytes of UTF-8")
    try:
        size = len(value.encode())
    except UnicodeEncodeError as error:
        raise failure(f"{what} {value!r} is not valid Unicode text: {error}") from error
    if size > limit:
        raise failure(
            f"{what} {value[:32]!r}... is {size} bytes long in UTF-8: shorten it to {limit} bytes"
        )


class Address(NamedTuple):
    """Where a server listens.

    ``host`` is a host name or an IP address, without brackets. ``port`` is 0 to 65535; a server
    that binds port 0 chooses a free one. ``str()`` gives ``host:port``, with an IPv6 host in
    brackets.

    Of an address ``unix:/path``, at which only processes of the same machine reach the server,
    ``host`` is the path, and ``port`` is 0.
    """

    host: str
    port: int

    def __str__(self) -> str:
        if self.path:
            return f"{UNIX}{self.path}"
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"

    @property
    def path(self) -> str:
        """The path of an address ``unix:/path``; empty for others."""
        return self.host if self.host.startswith("/") else ""

    @property
    def is_loopback(self) -> bool:
        """Whether only this machine can reach it."""
        if self.path:
            return True
        try:
            return ip_address(self.host).is_loopback
        except ValueError:
            return self.host == "localhost"

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read an address from ``host:port``, ``[ipv6]:port`` or ``unix:/path``.

        :raises BadAddress: the text has another form, the port is not a number from 0 to 65535, or
            no socket of this system can have the path.
        """
        if not isinstance(text, str):
            raise BadAddress(f"an address is a text, HOST:PORT, got {text!r:.200}")
        if text.startswith(UNIX):
            return cls(_check_path(text), 0)
        host, separator, port = text.rpartition(":")
        bracketed = host.startswith("[") and host.endswith("]")
        if bracketed:
            host = host[1:-1]
        if not separator or not host or (":" in host and not bracketed):
            raise BadAddress(
                f"{text!r:.300} is not an address: write HOST:PORT, [IPV6]:PORT or unix:/PATH"
            )
        if not is_port(port):
            raise BadAddress(
                f"{text!r:.300} is not an address: the port must be a number from 0 to 65535"
            )
        return cls(host, int(port))


def _check_path(text: str) -> str:
    """The path of an address.

    :raises BadAddress: no socket can have it.
    """
    path = text.removeprefix(UNIX)
    if sys.platform == "win32":
        raise BadAddress(f"{text!r:.300} is not an address on Windows: write HOST:PORT")
    if not (path.startswith("/") and path.isprintable()):
        raise BadAddress(f"{text!r:.300} is not an address: write the whole path, unix:/PATH")
    size = len(os.fsencode(path))
    if size > MAX_SOCKET_PATH:
        raise BadAddress(
            f"{text!r:.300} is not an address: its path has {size} bytes, and that of a socket has"
            f" {MAX_SOCKET_PATH} at most"
        )
    return path


def is_port(text: str) -> bool:
    """Whether a text is the number of a port. Python refuses to read numbers of many digits."""
    return text.isascii() and text.isdigit() and len(text) <= 5 and int(text) <= 65535


def type_name_of(cls: type) -> str:
    """The name of ``cls`` on the wire: its ``type_name=``, or else its default."""
    name = cls.__dict__.get("__rio_type_name__")
    assert name is None or isinstance(name, str)
    return default_name(cls.__name__, cls.__module__) if name is None else name


def name_of_type(object_type: type | str) -> str:
    """The type name of objects, from their class or as it is.

    :raises BadIdentity: it is neither a class nor a string of 1 to 128 bytes of UTF-8.
    """
    name = type_name_of(object_type) if isinstance(object_type, type) else object_type
    check_name("type name", name, MAX_TYPE_NAME_BYTES)
    return name


def default_name(name: str, module: str | None) -> str:
    """The name on the wire of a class that gives none: the name of the class, behind that which its
    module gives all its classes, ``__rio_namespace__ = "shop"``.

    :raises BadRegistration: the module gives something else than a name.
    """
    namespace = getattr(sys.modules.get(module or ""), "__rio_namespace__", None)
    if namespace is None:
        return name
    what = f"__rio_namespace__ of module {module}"
    check_name(what, namespace, MAX_TYPE_NAME_BYTES, BadRegistration)
    return f"{namespace}.{name}"
