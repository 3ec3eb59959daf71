"""The program ``rio``: it reads its command line, executes a command, and says how it failed."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Mapping, Sequence
from typing import Any

import msgspec

from rio._version import __version__
from rio.cli import options
from rio.cli.commands import COMMANDS, Command
from rio.cli.options import Arguments, CommandParser
from rio.cli.server_process import EVICTED
from rio.errors import NodeEvicted, RioError
from rio.objects.application_error import UnknownApplicationError

FAILED = 1
INTERRUPTED = 130

OVERVIEW = """\
Distributed stateful services: objects with an identity, found anywhere in a cluster, that handle
one message at a time and keep state.

All servers of a cluster share one storage. They find each other there, and clients find them there.
"""

EXAMPLES = """\
a first cluster, in three terminals:
  rio run bank:registry --storage sqlite:///bank.db     a server for `registry` in bank.py
  rio run bank:registry --storage sqlite:///bank.db     a second server of the same cluster
  rio members --storage sqlite:///bank.db               list the servers of the cluster
  rio send Account ada Deposit '{"amount": 100}' --storage sqlite:///bank.db
  rio shutdown Account ada --storage sqlite:///bank.db  have an object leave memory
  rio stop 127.0.0.1:40123 --storage sqlite:///bank.db  have a server drain and stop
  rio keygen bank.toml                                  keys for servers that others can reach

The environment can give every option instead: export RIO_STORAGE=sqlite:///bank.db
`rio COMMAND --help` tells more about a command.
"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command ``rio`` and return its exit code.

    The code is 0 for success, 1 for an error, 2 for wrong usage, 70 for a server that the cluster
    declared dead, and 130 after Ctrl-C. ``arguments`` are those of the process by default.
    """
    _open_standard_files()
    line = list(sys.argv[1:] if arguments is None else arguments) or ["--help"]
    parsed = parse(line, os.environ)
    try:
        return COMMANDS[parsed.command].execute(parsed) or 0
    except NodeEvicted as error:
        return _complain(error, EVICTED)
    except RioError as error:
        return _complain(error, FAILED)
    except KeyboardInterrupt:
        return INTERRUPTED


def _open_standard_files() -> None:
    """Open what the parent has closed of stdin, stdout and stderr: the null device. Otherwise the
    next file or socket would get one of their numbers, and the event loop would take it for them.
    """
    for number, name in enumerate(("stdin", "stdout", "stderr")):
        try:
            os.fstat(number)
        except OSError:
            os.set_inheritable(os.open(os.devnull, os.O_RDWR), True)  # gets the lowest free number
        if getattr(sys, name) is None:
            stream = open(number, "r" if number == 0 else "w", closefd=False)  # noqa: SIM115  # stays
            setattr(sys, name, stream)


def parse(arguments: list[str], environ: Mapping[str, str]) -> Arguments:
    """Read a command line. ``environ`` gives the options that it leaves out.

    :raises SystemExit: it is wrong (2) or asks for help (0). What to say about that was printed.
    """
    return _parser(environ).parse_args(arguments, namespace=Arguments())


def _parser(environ: Mapping[str, str]) -> argparse.ArgumentParser:
    parser = CommandParser(
        prog="rio",
        description=OVERVIEW,
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"rio {__version__}")
    commands = parser.add_subparsers(
        dest="command", required=True, metavar="COMMAND", title="commands"
    )
    for command in COMMANDS.values():
        _add_command(commands, command, environ)
    return parser


def _add_command(commands: Any, command: Command, environ: Mapping[str, str]) -> None:
    parser: CommandParser = commands.add_parser(
        command.name,
        help=command.summary,
        description=command.description,
        epilog=f"examples:\n{command.examples}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.environ = environ
    if command.uses_cluster:
        options.add_storage(parser)
        options.add_security(parser)
    command.add_options(parser)


def _complain(error: RioError, code: int) -> int:
    name, text = type(error).__name__, error.message
    if isinstance(error, UnknownApplicationError):
        # The class of an application error is in the program of the server, and not in this one.
        name, text = error.type_name, msgspec.json.encode(error.fields).decode()
    print(f"rio: {name}: {text}", file=sys.stderr)
    return code
