"""What can be written after ``rio``, and what the environment says where nothing is written."""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from typing import Any

import msgspec

from rio.cluster.config import ClusterConfig
from rio.errors import RioError
from rio.identity import Address

LOG_LEVELS = ("debug", "info", "warning", "error")

OVERVIEW = """\
Distributed stateful services: objects with an identity, found anywhere in a cluster,
that handle one message at a time and keep state.

A cluster is what shares one storage: servers find each other there, and clients find the servers.
"""

EXAMPLES = """\
a first cluster, in three terminals:
  rio run bank:registry --storage sqlite:///bank.db          a server for the objects of `registry` in bank.py
  rio run bank:registry --storage sqlite:///bank.db          a second one, which shares the objects with the first
  rio members --storage sqlite:///bank.db                    who is in the cluster
  rio send Account ada Deposit '{"amount": 100}' --storage sqlite:///bank.db
  rio shutdown Account ada --storage sqlite:///bank.db       have an object leave memory; its next message brings it back
  rio stop 127.0.0.1:40123 --storage sqlite:///bank.db       have a server drain and stop

Every option can be given by the environment instead: export RIO_STORAGE=sqlite:///bank.db
`rio COMMAND --help` tells more about a command.
"""

RUN = """\
Serve the objects of a registry until SIGTERM or SIGINT; then let them finish and hand them over (a second signal ends at once).

The module is looked for in the current directory first. When the server can be used, it prints one line:
  listening on HOST:PORT (member N)
"""

RUN_EXAMPLES = """\
examples:
  rio run bank:registry --storage sqlite:///bank.db
  rio run bank:registry --storage sqlite:///bank.db --workers 4
  rio run bank:registry --storage sqlite:///bank.db --address 0.0.0.0:7000 --advertise 10.0.0.7:7000
  rio run bank:registry --storage redis://cache/0 --state postgres://db/bank --http 127.0.0.1:8080

exit codes:
  0 stopped as asked    1 an error    2 wrong usage    70 the cluster declared this server dead: start it again
"""

SEND_EXAMPLES = """\
example:
  rio send Account ada Deposit '{"amount": 100}' --storage sqlite:///bank.db
"""

MEMBERS_EXAMPLES = """\
example:
  rio members --storage sqlite:///bank.db
"""

SHUTDOWN_EXAMPLES = """\
example:
  rio shutdown Account ada --storage sqlite:///bank.db
"""

STOP_EXAMPLES = """\
example:
  rio stop 127.0.0.1:40123 --storage sqlite:///bank.db
"""


class Arguments(argparse.Namespace):
    """What was written; a command reads its own."""

    command: str
    storage: str
    membership: str | None
    placement: str | None
    state: str | None
    target: str
    address: str
    advertise: str | None
    http: str | None
    cluster: str
    workers: int
    log_level: str
    type_name: str
    id: str
    message: str
    payload: Any
    timeout: float


class CommandParser(argparse.ArgumentParser):
    """A parser whose options can be given by the environment, under ``RIO_`` and their name."""

    environ: Mapping[str, str] = {}

    def option(
        self,
        name: str,
        *,
        help: str,
        default: str | None = None,
        required: bool = False,
        **keywords: Any,
    ) -> None:
        variable = "RIO_" + name.lstrip("-").replace("-", "_").upper()
        value = self.environ.get(variable) or default
        shown = f"; {default} by default" if default is not None else ""
        self.add_argument(
            name,
            default=value,
            required=required and value is None,
            help=f"{help}{shown} [environment: {variable}]",
            **keywords,
        )


def parse(arguments: list[str], environ: Mapping[str, str]) -> Arguments:
    """Read a command line.

    :raises SystemExit: it is wrong (2), or asked for help (0); that has been printed.
    """
    return parser(environ).parse_args(arguments, namespace=Arguments())


def parser(environ: Mapping[str, str]) -> argparse.ArgumentParser:
    """The parser of the whole command line; the environment gives defaults."""
    whole = CommandParser(
        prog="rio",
        description=OVERVIEW,
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    commands = whole.add_subparsers(
        dest="command", required=True, metavar="COMMAND", title="commands"
    )
    _add_run(
        _command(commands, environ, "run", "serve the objects of a registry", RUN, RUN_EXAMPLES)
    )
    _command(
        commands,
        environ,
        "members",
        "list the servers of a cluster",
        "List the servers of a cluster.",
        MEMBERS_EXAMPLES,
    )
    _add_send(
        _command(
            commands,
            environ,
            "send",
            "send a message to an object",
            "Send a message, print the reply as JSON.",
            SEND_EXAMPLES,
        )
    )
    deactivate = "Have an object leave memory, wherever it lives. Its next message brings it back, with its saved state."
    _add_shutdown(
        _command(
            commands,
            environ,
            "shutdown",
            "have an object leave memory",
            deactivate,
            SHUTDOWN_EXAMPLES,
        )
    )
    leave = "Ask a server to let its objects finish, hand them over and stop."
    _add_stop(
        _command(commands, environ, "stop", "have a server drain and stop", leave, STOP_EXAMPLES)
    )
    return whole


def _command(
    commands: Any,
    environ: Mapping[str, str],
    name: str,
    summary: str,
    description: str,
    examples: str,
) -> CommandParser:
    command: CommandParser = commands.add_parser(
        name,
        help=summary,
        description=description,
        epilog=examples,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    command.environ = environ
    command.option(
        "--storage",
        metavar="URL",
        required=True,
        help="the storage of the cluster, for example sqlite:///app.db",
    )
    return command


def _add_run(command: CommandParser) -> None:
    command.add_argument(
        "target",
        metavar="MODULE:REGISTRY",
        help="where the rio.Registry is, for example shop.service:registry",
    )
    command.option(
        "--address",
        metavar="HOST:PORT",
        default="127.0.0.1:0",
        type=_address,
        help="where to listen; port 0 takes a free one",
    )
    command.option(
        "--advertise",
        metavar="HOST:PORT",
        type=_address,
        help="under which address others reach it, where that differs from --address",
    )
    command.option(
        "--http",
        metavar="HOST:PORT",
        type=_address,
        help="where to show /members, /livez and /readyz; nowhere by default",
    )
    for role in ("membership", "placement", "state"):
        command.option(
            f"--{role}", metavar="URL", help=f"where to keep the {role}, if not in --storage"
        )
    command.option(
        "--cluster",
        metavar="PRESET",
        default="strict",
        type=_preset,
        help="strict, fast or local: how soon a dead server is noticed",
    )
    command.option(
        "--workers",
        metavar="N",
        default="1",
        type=_count,
        help="server processes; those after the first take the ports after --address",
    )
    command.option(
        "--log-level",
        metavar="LEVEL",
        default="info",
        type=_log_level,
        help=f"{', '.join(LOG_LEVELS)}: what goes to stderr",
    )


def _add_send(command: CommandParser) -> None:
    _add_object(command)
    command.add_argument(
        "message", metavar="MESSAGE", help="type name of the message, for example Deposit"
    )
    command.add_argument(
        "payload",
        metavar="JSON",
        nargs="?",
        default="{}",
        type=_json,
        help="its fields, as JSON; {} by default",
    )
    _add_timeout(command)


def _add_shutdown(command: CommandParser) -> None:
    _add_object(command)
    _add_timeout(command)


def _add_stop(command: CommandParser) -> None:
    command.add_argument(
        "address", metavar="HOST:PORT", type=_address, help="the server, as `rio members` lists it"
    )
    _add_timeout(command)


def _add_object(command: CommandParser) -> None:
    command.add_argument(
        "type_name", metavar="TYPE", help="type name of the object, for example Account"
    )
    command.add_argument("id", metavar="ID", help="its id, for example ada")


def _add_timeout(command: CommandParser) -> None:
    command.option(
        "--timeout",
        metavar="SECONDS",
        default="30",
        type=_seconds,
        help="how long the call may take",
    )


# --- values ---------------------------------------------------------------------------------------


def _address(text: str) -> str:
    try:
        return str(Address.parse(text))
    except RioError as error:
        raise argparse.ArgumentTypeError(str(error)) from error


def _preset(text: str) -> str:
    try:
        ClusterConfig.named(text)
    except RioError as error:
        raise argparse.ArgumentTypeError(str(error)) from error
    return text


def _count(text: str) -> int:
    if not (text.isascii() and text.isdigit() and int(text) > 0):
        raise argparse.ArgumentTypeError(f"{text!r} is not a number of at least 1")
    return int(text)


def _seconds(text: str) -> float:
    try:
        seconds = float(text)
    except ValueError:
        seconds = 0.0
    if not 0 < seconds < float("inf"):
        raise argparse.ArgumentTypeError(f"{text!r} is not a number of seconds above 0")
    return seconds


def _log_level(text: str) -> str:
    if text.lower() not in LOG_LEVELS:
        raise argparse.ArgumentTypeError(f"{text!r} is not one of {', '.join(LOG_LEVELS)}")
    return text.lower()


def _json(text: str) -> Any:
    try:
        return msgspec.json.decode(text)
    except msgspec.DecodeError as error:
        raise argparse.ArgumentTypeError(f"{text!r} is not JSON: {error}") from error
