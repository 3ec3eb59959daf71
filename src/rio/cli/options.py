"""The options and arguments that commands share, and what the environment says instead of them."""

from __future__ import annotations

import argparse
import re
from collections.abc import Mapping
from typing import Any, NoReturn

import msgspec

from rio.cluster.config import ClusterConfig
from rio.contracts.roles import ROLES
from rio.errors import RioError
from rio.identity import Address
from rio.server.memory import check_limit
from rio.storage import EncryptedState, Keyring, Storage, open_storage
from rio.transport.low_latency import Latency

NEVER = "never"
LOG_LEVELS = ("debug", "info", "warning", "error")


class Arguments(argparse.Namespace):
    """What a command line says. A command reads what it has declared."""

    command: str
    storage: str
    registry: str
    address: str
    advertise: str | None
    http: str | None
    cluster: str
    action: str
    preset: str | None
    force: bool
    version: str | None
    label: dict[str, str]
    workers: int
    wait: float
    idle_after: float | None
    max_objects: int | None
    socket_mode: int
    max_memory: int | str | None
    latency: Latency
    check: bool
    sample: int | None
    log_level: str
    security: str | None
    insecure: bool
    file: str
    role: str
    key_id: str | None
    allow: list[str]
    encryption: str | None
    also: list[str]
    token: bool
    certificates: bool
    days: int
    hosts: list[str]
    type_name: str
    id: str
    message: str
    payload: Any
    types: str | None
    timeout: float
    keyring: str | None
    plain_states: bool

    def roles(self) -> dict[str, Any]:
        """The URLs of the roles that have one of their own, by the role's name."""
        urls = {role.name: getattr(self, role.name, None) for role in ROLES}
        return {name: url for name, url in urls.items() if url is not None}

    def open_storage(self, url: str) -> Storage:
        """The storage at a URL, with the roles that have one of their own, and states under the
        keys that are given. It is not prepared yet.

        :raises ConfigurationError: a URL or the file of the keys cannot be used.
        """
        storage = open_storage(url, **self.roles())
        if self.keyring is None:
            return storage
        keyring = Keyring.from_file(self.keyring)
        state = EncryptedState(storage.state, keyring, accept_plain=self.plain_states)
        return msgspec.structs.replace(storage, state=state)


class CommandParser(argparse.ArgumentParser):
    """A parser whose options can come from the environment too, under ``RIO_`` and their name."""

    environ: Mapping[str, str] = {}

    def error(self, message: str) -> NoReturn:
        """As in the base, without the password of a URL that stands where none belongs."""
        super().error(re.sub(r"://.*@", "://***@", message, flags=re.DOTALL))

    def add_option(
        self,
        name: str,
        *,
        help: str,
        default: str | None = None,
        required: bool = False,
        group: argparse._ArgumentGroup | None = None,
        **keywords: Any,
    ) -> None:
        """Add an option, to a group of the help text if one is given. An empty variable of the
        environment counts as none.
        """
        variable = "RIO_" + name.lstrip("-").replace("-", "_").upper()
        value = self.environ.get(variable) or default
        shown = f"; {default} by default" if default else ""
        (group or self).add_argument(
            name,
            default=value,
            required=required and value is None,
            help=f"{help}{shown} [environment: {variable}]",
            **keywords,
        )

    def add_flag(self, name: str, *, help: str) -> None:
        """Add an option without a value. In the environment ``0`` and nothing turn it off."""
        variable = "RIO_" + name.lstrip("-").replace("-", "_").upper()
        self.add_argument(
            name,
            action="store_true",
            default=self.environ.get(variable, "0") not in ("", "0"),
            help=f"{help} [environment: {variable}=1]",
        )


# --- options that several commands have -----------------------------------------------------------


def add_storage(parser: CommandParser) -> None:
    parser.add_option(
        "--storage",
        metavar="URL",
        required=True,
        help="the storage of the cluster, for example sqlite:///app.db",
    )


def add_security(parser: CommandParser) -> None:
    parser.add_option(
        "--security",
        metavar="FILE",
        help="the keys by which servers and clients prove themselves; `rio keygen` makes the file",
    )


def add_registry(parser: CommandParser) -> None:
    parser.add_argument(
        "registry",
        metavar="MODULE:REGISTRY",
        help="where the rio.Registry is, for example shop.service:registry",
    )


def add_roles(parser: CommandParser) -> None:
    """One option for each role of a storage."""
    for role in ROLES:
        parser.add_option(
            f"--{role.name}",
            metavar="URL",
            help=f"where to keep the {role.name} ({role.holds}), if not in --storage",
        )


def add_keyring(parser: CommandParser) -> None:
    parser.add_option(
        "--keyring",
        metavar="FILE",
        help="encrypt the states under the keys in this file, which only its owner may read",
    )
    parser.add_option(
        "--plain-states",
        metavar="refuse|accept",
        default="refuse",
        type=read_plain_states,
        help="whether to read states that were saved before they were encrypted",
    )


def add_object(parser: CommandParser) -> None:
    parser.add_argument(
        "type_name", metavar="TYPE", help="the type name of the object, for example Account"
    )
    parser.add_argument("id", metavar="ID", help="the id of the object, for example ada")


def add_timeout(parser: CommandParser) -> None:
    parser.add_option(
        "--timeout",
        metavar="SECONDS",
        default="30",
        type=read_seconds,
        help="how long the call may take",
    )


# --- values ---------------------------------------------------------------------------------------


def read_address(text: str) -> str:
    """:raises argparse.ArgumentTypeError: the text is no ``HOST:PORT`` or ``unix:/PATH``."""
    try:
        return str(Address.parse(text))
    except RioError as error:
        raise argparse.ArgumentTypeError(str(error)) from error


def read_preset(text: str) -> str:
    """:raises argparse.ArgumentTypeError: the text names no preset of the cluster settings."""
    try:
        ClusterConfig.named(text)
    except RioError as error:
        raise argparse.ArgumentTypeError(str(error)) from error
    return text


def read_labels(text: str) -> dict[str, str]:
    """:raises argparse.ArgumentTypeError: the text is not ``NAME=VALUE``, with commas between."""
    labels = {}
    for label in filter(None, text.split(",")):
        name, separator, value = label.partition("=")
        if not (name and separator):
            raise argparse.ArgumentTypeError(f"{label!r} is not NAME=VALUE, for example zone=eu")
        labels[name] = value
    return labels


class AddLabels(argparse.Action):
    """Labels that are given one after the other, instead of those of the environment."""

    def __call__(self, parser: Any, arguments: Any, values: Any, option: Any = None) -> None:
        before = getattr(arguments, self.dest)
        setattr(arguments, self.dest, (before if isinstance(before, dict) else {}) | values)


def read_plain_states(text: str) -> bool:
    """:raises argparse.ArgumentTypeError: the text is neither ``refuse`` nor ``accept``."""
    if text not in ("refuse", "accept"):
        raise argparse.ArgumentTypeError(f"{text!r} is neither refuse nor accept")
    return text == "accept"


def read_count(text: str) -> int:
    """:raises argparse.ArgumentTypeError: the text is no whole number of at least 1."""
    if not (text.isascii() and text.isdigit() and int(text) > 0):
        raise argparse.ArgumentTypeError(f"{text!r} is not a number of at least 1")
    return int(text)


def read_seconds(text: str) -> float:
    """:raises argparse.ArgumentTypeError: the text is no finite number above 0."""
    try:
        seconds = float(text)
    except ValueError:
        seconds = 0.0
    if not 0 < seconds < float("inf"):
        raise argparse.ArgumentTypeError(f"{text!r} is not a number of seconds above 0")
    return seconds


def read_patience(text: str) -> float:
    """:raises argparse.ArgumentTypeError: the text is no finite number of at least 0."""
    return 0.0 if text == "0" else read_seconds(text)


def read_idle_after(text: str) -> float | None:
    """:raises argparse.ArgumentTypeError: the text is neither seconds nor ``never``."""
    return None if text == NEVER else read_seconds(text)


def read_memory(text: str) -> int | str:
    """:raises argparse.ArgumentTypeError: the text is neither a number of bytes nor a share."""
    limit = int(text) if text.isascii() and text.isdigit() else text
    try:
        check_limit(limit)
    except RioError as error:
        raise argparse.ArgumentTypeError(str(error)) from error
    return limit


def read_latency(text: str) -> str:
    """:raises argparse.ArgumentTypeError: the text is neither ``normal`` nor ``low``."""
    if text not in ("normal", "low"):
        raise argparse.ArgumentTypeError(f"{text!r} is neither normal nor low")
    return text


def read_mode(text: str) -> int:
    """:raises argparse.ArgumentTypeError: the text is no mode of a file, as ``chmod`` takes it."""
    if not re.fullmatch("0?[0-7]{3}", text):
        raise argparse.ArgumentTypeError(f"{text!r} is not a mode such as 660")
    return int(text, 8)


def read_log_level(text: str) -> str:
    """:raises argparse.ArgumentTypeError: there is no such level."""
    if text.lower() not in LOG_LEVELS:
        raise argparse.ArgumentTypeError(f"{text!r} is not one of {', '.join(LOG_LEVELS)}")
    return text.lower()


def read_json(text: str) -> Any:
    """:raises argparse.ArgumentTypeError: the text is no JSON."""
    try:
        return msgspec.json.decode(text)
    except msgspec.DecodeError as error:
        raise argparse.ArgumentTypeError(f"{text!r} is not JSON: {error}") from error
