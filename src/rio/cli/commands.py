"""What each command does, and how a program that has failed says so."""

from __future__ import annotations

import asyncio
import logging
import os
import sys
from collections.abc import Sequence
from contextlib import suppress

import msgspec

from rio.cli import supervisor
from rio.cli.arguments import Arguments, parse
from rio.cli.serving import serve
from rio.cli.target import load_registry
from rio.client.admin import AdminCommand
from rio.client.client import Client
from rio.contracts.membership import Member
from rio.errors import ConfigurationError, NodeEvicted, RioError
from rio.objects.application_error import UnknownApplicationError
from rio.objects.message import DynamicMessage
from rio.runner import run
from rio.storage import open_storage

FAILED = 1
INTERRUPTED = 130


def main(arguments: Sequence[str] | None = None) -> int:
    """The command ``rio``.

    Returns its exit code: 0; 1 for an error; 2 for wrong usage; 70 for a server that was declared
    dead.
    """
    parsed = parse(list(sys.argv[1:] if arguments is None else arguments), os.environ)
    try:
        return COMMANDS[parsed.command](parsed)
    except NodeEvicted as error:
        return _complain(error, supervisor.EVICTED)
    except RioError as error:
        return _complain(error, FAILED)
    except KeyboardInterrupt:
        return INTERRUPTED


def _complain(error: RioError, code: int) -> int:
    name, text = type(error).__name__, error.message
    if isinstance(
        error, UnknownApplicationError
    ):  # an application's own error: its class is in the server's program, not in this one
        name, text = error.type_name, msgspec.json.encode(error.fields).decode()
    print(f"rio: {name}: {text}", file=sys.stderr)
    return code


# --- servers --------------------------------------------------------------------------------------


def run_command(arguments: Arguments) -> int:
    """``rio run``"""
    supervisor.follow_parent(os.environ)
    logging.basicConfig(
        level=arguments.log_level.upper(),
        format="%(asctime)s %(levelname)-7s %(name)s: %(message)s",
    )
    if arguments.workers > 1:
        return _run_workers(arguments)
    registry = load_registry(arguments.target)
    with suppress(asyncio.CancelledError):  # it was stopped before it had started
        run(serve(registry, arguments))
    return 0


def _run_workers(arguments: Arguments) -> int:
    if arguments.storage.startswith("memory:"):
        raise ConfigurationError(
            "memory:// cannot be shared by several processes: take sqlite:///FILE, or --workers 1"
        )
    load_registry(arguments.target)  # say at once, and once, what is wrong with it
    return run(supervisor.Supervisor(supervisor.commands(arguments), os.environ).run())


# --- the cluster from outside ---------------------------------------------------------------------


def members_command(arguments: Arguments) -> int:
    """``rio members``"""
    members = run(_members(_shared(arguments.storage)))
    if not members:
        print("no members: has a server been started on this storage?", file=sys.stderr)
        return 0
    width = max(len(member.address) for member in members)
    print(f"{'MEMBER':>6}  {'ADDRESS':<{width}}  STATUS")
    for member in members:
        print(f"{member.generation:>6}  {member.address:<{width}}  {member.status.name.lower()}")
    return 0


async def _members(url: str) -> tuple[Member, ...]:
    storage = open_storage(url)
    try:
        await storage.membership.prepare()
        return (await storage.membership.snapshot()).members
    finally:
        await storage.close()


def send_command(arguments: Arguments) -> int:
    """``rio send``"""
    print(run(_send(arguments)))
    return 0


async def _send(arguments: Arguments) -> str:
    message = DynamicMessage(arguments.message, arguments.payload)
    async with Client(_shared(arguments.storage), timeout=arguments.timeout) as client:
        reply = await client.send(arguments.type_name, arguments.id, message)
    return msgspec.json.encode(reply).decode()


def shutdown_command(arguments: Arguments) -> int:
    """``rio shutdown``"""
    run(_admin(arguments, AdminCommand.shutdown(arguments.type_name, arguments.id)))
    return 0


def stop_command(arguments: Arguments) -> int:
    """``rio stop``"""
    run(_admin(arguments, AdminCommand.server_exit(arguments.address)))
    return 0


async def _admin(arguments: Arguments, command: AdminCommand) -> None:
    async with Client(_shared(arguments.storage), timeout=arguments.timeout) as client:
        await client.admin(command)


def _shared(url: str) -> str:
    if url.startswith("memory:"):
        raise ConfigurationError(
            "memory:// belongs to one process and is empty here: name the storage that the servers share"
        )
    return url


COMMANDS = {
    "run": run_command,
    "members": members_command,
    "send": send_command,
    "shutdown": shutdown_command,
    "stop": stop_command,
}
