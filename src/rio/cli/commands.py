"""The commands: what each is called, which options it has, and what it does.

To add a command, add a row to ``COMMANDS``.
"""

from __future__ import annotations

import asyncio
import json
import logging
import os
import sys
from collections.abc import Callable
from contextlib import suppress
from datetime import date
from pathlib import Path
from typing import Any, NamedTuple, cast

import msgspec

from rio.cli import cluster_options, options
from rio.cli.options import Arguments, CommandParser
from rio.cli.registry import load_registry
from rio.cli.saved_states import TypeReport, check_states
from rio.cli.server_process import follow_parent, serve
from rio.cli.supervisor import Supervisor, command_lines, environment_of_children
from rio.client.admin import AdminCommand
from rio.client.client import Client
from rio.cluster.config import ClusterConfig
from rio.cluster.settings import change_settings, decode_row, make_new_cluster, read_laggards
from rio.contracts.membership import Member, MembershipStorage
from rio.errors import BadMessage, ConfigurationError, StorageUnavailable, WrongCluster
from rio.objects.message import DynamicMessage, Message
from rio.objects.registry import Registry
from rio.runner import run
from rio.security.credentials import (
    ENCRYPTIONS,
    add_key,
    add_token,
    name_certificates,
    write_token,
)
from rio.security.keys import ROLES, Key, Role
from rio.security.tokens import make_token
from rio.storage import SchemaStatus, Storage, migrate, open_storage, read_schemas
from rio.storage.migration import check_found
from rio.storage.storage import open_members


class Command(NamedTuple):
    """One command of ``rio``."""

    name: str
    summary: str
    """One line for the list of commands, without a full stop."""
    description: str
    examples: str
    """Command lines, each after two spaces."""
    add_options: Callable[[CommandParser], None]
    """Declares its options, besides ``--storage``."""
    execute: Callable[[Arguments], int | None]
    """Does it. Returns the exit code if that is not 0."""
    uses_cluster: bool = True
    """Whether it takes ``--storage`` and ``--security``."""


# --- rio run --------------------------------------------------------------------------------------

RUN = """\
Serve the objects of a registry until SIGTERM or SIGINT. Then let the objects finish, hand them over
to other servers, and end. A second signal, of either kind, ends the server at once.

The module is looked for in the current directory first. When the server is ready, it prints a line:
  listening on ADDRESS (member N)
"""

RUN_EXAMPLES = """\
  rio run bank:registry --storage sqlite:///bank.db
  rio run bank:registry --storage sqlite:///bank.db --workers 4
  rio run bank:registry --storage postgres://db/bank --address 10.0.0.7:7000 --security bank.toml
  rio run bank:registry --storage redis://cache/0 --state postgres://db/bank --http 127.0.0.1:8080
  rio run bank:registry --storage sqlite:///bank.db --lease-local 10 --lease-evict 13

exit codes:
  0   the server was asked to stop, and stopped
  1   an error
  2   wrong usage
  70  the cluster declared this server dead: start it again
  75  a client stopped this server, with `rio stop` or AdminCommand.server_exit
"""


def add_run_options(parser: CommandParser) -> None:
    options.add_registry(parser)
    parser.add_option(
        "--address",
        metavar="HOST:PORT|unix:PATH",
        default="127.0.0.1:0",
        type=options.read_address,
        help="where to listen; port 0 takes a free port; unix:/PATH makes a socket file",
    )
    parser.add_option(
        "--socket-mode",
        metavar="MODE",
        default="600",
        type=options.read_mode,
        help="who may connect to a unix: address, for example 660 for the group of the file too",
    )
    parser.add_option(
        "--advertise",
        metavar="ADDRESS",
        type=options.read_address,
        help="the address under which others reach the server, if it is not --address",
    )
    parser.add_option(
        "--http",
        metavar="HOST:PORT",
        type=options.read_address,
        help="where to show /members, /metrics, /livez and /readyz; nowhere by default",
    )
    parser.add_flag(
        "--insecure",
        help="let an address that others can reach be used without --security",
    )
    options.add_roles(parser)
    options.add_keyring(parser)
    parser.add_option(
        "--version",
        metavar="TEXT",
        help="the version of your program; by default a digest of the types that it serves",
    )
    parser.add_option(
        "--label",
        metavar="NAME=VALUE,...",
        default="",
        action=options.AddLabels,
        type=options.read_labels,
        help="what else the other servers learn about this one, for example zone=eu",
    )
    parser.add_option(
        "--workers",
        metavar="N",
        default="1",
        type=options.read_count,
        help="how many server processes to run; each listens on the port after the one before, or"
        " at PATH.1, PATH.2 and so on",
    )
    parser.add_option(
        "--wait",
        metavar="SECONDS",
        default="0",
        type=options.read_patience,
        help="how long to wait at the start for a storage that is not up yet",
    )
    parser.add_option(
        "--idle-after",
        metavar="SECONDS",
        default="900",
        type=options.read_idle_after,
        help=f"when an object leaves that nobody uses; {options.NEVER}: it stays",
    )
    parser.add_option(
        "--max-objects",
        metavar="N",
        type=options.read_count,
        help="how many objects a server process holds; those not in use leave first",
    )
    parser.add_option(
        "--max-memory",
        metavar="BYTES|SHARE",
        type=options.read_memory,
        help="above which memory of a server process objects leave that are not in use, as bytes"
        ' or as a share like "80%%" of what the container or the machine has',
    )
    parser.add_option(
        "--latency",
        metavar="normal|low",
        default="normal",
        type=options.read_latency,
        help="low: a server process stays awake for a moment after each call, for the next one;"
        " that takes the idle time of a core while calls are under way",
    )
    parser.add_option(
        "--log-level",
        metavar="LEVEL",
        default="info",
        type=options.read_log_level,
        help=f"{', '.join(options.LOG_LEVELS)}: what goes to stderr",
    )
    cluster_options.add_cluster(parser)


def run_servers(arguments: Arguments) -> int:
    """Run one server in this process, or several under a supervisor."""
    follow_parent(os.environ)
    logging.basicConfig(
        level=arguments.log_level.upper(),
        format="%(asctime)s %(levelname)-7s %(name)s: %(message)s",
    )
    if arguments.workers > 1:
        return _supervise(arguments)
    config = _read_config(arguments.cluster, arguments)
    registry = load_registry(arguments.registry)
    with suppress(asyncio.CancelledError):  # it was stopped before it was ready
        return run(serve(registry, config, arguments))
    return 0


def _read_config(preset: str, arguments: Arguments) -> ClusterConfig:
    return cluster_options.read_config(preset, cluster_options.given_settings(arguments))


def _supervise(arguments: Arguments) -> int:
    if sys.platform == "win32":
        raise ConfigurationError(
            "--workers does not exist on Windows, where no process can ask another one to end: run "
            "the command once for each server, with a port of its own"
        )
    urls = [arguments.storage, *arguments.roles().values()]
    if any(url.lower().startswith("memory:") for url in urls):
        raise ConfigurationError(
            "memory:// cannot be shared by several processes: use sqlite:///FILE, or --workers 1"
        )
    _read_config(arguments.cluster, arguments)  # what is wrong is said at once, and once
    load_registry(arguments.registry)
    environ = {**os.environ, **environment_of_children(arguments)}
    return run(Supervisor(command_lines(arguments), environ).run())


# --- rio members ----------------------------------------------------------------------------------


def list_members(arguments: Arguments) -> None:
    """Print the servers of a cluster."""
    members = run(_read_members(_shared_storage(arguments)))
    if not members:
        print("no members: has a server been started on this storage?", file=sys.stderr)
        return
    rows = [("MEMBER", "ADDRESS", "STATUS")]
    rows += [(str(each.generation), each.address, each.status.name.lower()) for each in members]
    left, middle = (max(len(row[column]) for row in rows) for column in (0, 1))
    for member, address, status in rows:
        print(f"{member:<{left}}  {address:<{middle}}  {status}")


async def _read_members(url: str) -> tuple[Member, ...]:
    async with open_members(url) as membership:
        return (await membership.snapshot()).members


# --- rio settings ---------------------------------------------------------------------------------

SETTINGS = """\
Show or change what all servers of a cluster must agree on, and the identity of the cluster.

  rio settings              show the cluster's id and settings, and which servers follow them
  rio settings set PRESET   have a running cluster follow other settings, step by step; from then on
                            give each server that starts --cluster PRESET, and the same options
  rio settings new-id       give a copy of a database an identity of its own, and end the servers
                            that were copied with it: they belong to the cluster of the original
"""

SETTINGS_EXAMPLES = """\
  rio settings --storage postgres://db/bank
  rio settings set strict --storage postgres://db/bank
  rio settings set strict --lease-local 10 --lease-evict 13 --storage postgres://db/bank
  rio settings new-id --storage postgres://staging/bank
"""


def add_settings_options(parser: CommandParser) -> None:
    parser.add_argument(
        "action", metavar="ACTION", nargs="?", default="show", choices=["show", "set", "new-id"]
    )
    parser.add_argument("preset", metavar="PRESET", nargs="?", type=options.read_preset)
    options.add_roles(parser)
    parser.add_argument(
        "--force",
        action="store_true",
        help="for new-id: do not watch first whether a server lives",
    )
    options.add_timeout(parser)
    cluster_options.add_settings(parser, cluster_options.LEASE)


def manage_settings(arguments: Arguments) -> None:
    """Show or change the settings of a cluster."""
    if (arguments.action == "set") != (arguments.preset is not None):
        raise ConfigurationError("name a preset with set, and only there: rio settings set strict")
    _shared_storage(arguments)
    run(_manage_settings(arguments))


async def _manage_settings(arguments: Arguments) -> None:
    storage = open_storage(arguments.storage, **arguments.roles())
    try:
        await check_found(storage)
        await storage.membership.prepare()
        if arguments.action == "new-id":
            await _make_new_cluster(storage, force=arguments.force)
        elif arguments.preset is not None:
            await _change_settings(storage.membership, arguments)
        await _show_settings(storage.membership)
    finally:
        await storage.close()


async def _change_settings(membership: MembershipStorage, arguments: Arguments) -> None:
    config = _read_config(arguments.preset or "", arguments)
    try:
        await change_settings(membership, config, timeout=arguments.timeout)
    except TimeoutError:
        raise StorageUnavailable(
            f"not all servers have acknowledged the change within {arguments.timeout:g} s:"
            " see `rio settings`, and give the command again, it goes on from there"
        ) from None


async def _make_new_cluster(storage: Storage, *, force: bool) -> None:
    for role in storage:
        await role.prepare()
    old, new = await make_new_cluster(storage.membership, force=force)
    for role in storage:
        if role is storage.membership:
            continue
        owner = await role.adopt(new, instead_of=old)
        if owner != new:
            raise WrongCluster(
                f"{role!r} belongs to cluster {owner}, and belonged to it before: name the copy"
                " that belongs to this membership"
            )


async def _show_settings(membership: MembershipStorage) -> None:
    snapshot = await membership.snapshot()
    print(f"cluster {snapshot.cluster_id}")
    row = decode_row(snapshot.settings)
    if row is None:
        print("no server has been started: there are no settings yet")
        return
    names = [*row.now.__struct_fields__]
    print(f"settings {row.revision}: {row.now.show(names)}")
    if row.now != row.goal:
        print(f"on the way to: {row.goal.show(names)}")
    for member in await read_laggards(membership, snapshot, row.revision):
        print(f"member {member.generation} ({member.address}) has not acknowledged them yet")


# --- rio send -------------------------------------------------------------------------------------


def add_send_options(parser: CommandParser) -> None:
    options.add_object(parser)
    parser.add_argument(
        "message", metavar="MESSAGE", help="the type name of the message, for example Deposit"
    )
    parser.add_argument(
        "payload",
        metavar="JSON",
        nargs="?",
        default="{}",
        type=options.read_json,
        help="the fields of the message, as JSON; {} by default",
    )
    parser.add_option(
        "--registry",
        metavar="MODULE:REGISTRY",
        dest="types",
        help="read the JSON, and the reply, as the class of the message says",
    )
    options.add_timeout(parser)


SEND = """\
Send a message to an object, and print the reply as JSON.

JSON has no bytes and only strings as keys: bytes are printed as base64, numbers that are keys as
strings. With --registry a message is read in the same way; without it, it has no such fields. What
a terminal cannot show is printed as \\uXXXX.
"""

SEND_EXAMPLES = """\
  rio send Account ada Deposit '{"amount": 100}' --storage sqlite:///bank.db

exit codes:
  0   the reply was printed
  1   an error
  2   wrong usage
  3   the call succeeded, and the reply could not be printed
"""

NOT_PRINTED = 3


def send_message(arguments: Arguments) -> int:
    """Send a message to an object, and print the reply."""
    reply = run(_send(arguments))
    try:
        print(_as_json(reply, sys.stdout.encoding), flush=True)
    except (OSError, TypeError, ValueError) as error:
        print(f"rio: the call succeeded, but its reply cannot be printed: {error}", file=sys.stderr)
        sys.stdout = open(os.devnull, "w")  # noqa: SIM115  # else the interpreter tries again
        return NOT_PRINTED
    return 0


def _as_json(reply: Any, encoding: str) -> str:
    """A reply as JSON that can be written in this encoding."""
    text = msgspec.json.encode(reply).decode()
    try:
        text.encode(encoding)
    except UnicodeEncodeError:
        return json.dumps(json.loads(text), separators=(",", ":"))
    return text


async def _send(arguments: Arguments) -> Any:
    object_type, message = _read_message(arguments)
    async with _client(arguments) as client:
        return await client.send(object_type, arguments.id, message)


def _read_message(arguments: Arguments) -> tuple[Any, Message[Any] | DynamicMessage]:
    """The type of the object, and the message; both as their classes, if a registry is given.

    :raises ConfigurationError: no class of the registry handles the message.
    :raises BadMessage: the JSON does not fit the message.
    """
    name = arguments.message
    if arguments.types is None:
        return arguments.type_name, DynamicMessage(name, arguments.payload)
    registered = load_registry(arguments.types).get(arguments.type_name)
    handler = None if registered is None else registered.handlers.get(name)
    if registered is None or handler is None:
        raise ConfigurationError(
            f"{arguments.types} has no handler of {arguments.type_name} for {name}"
        )
    if handler.message_type is None:
        return registered.cls, DynamicMessage(name, arguments.payload)
    try:
        message = msgspec.convert(arguments.payload, handler.message_type, str_keys=True)
    except msgspec.ValidationError as error:
        raise BadMessage(f"the JSON does not fit {name}: {error}") from error
    return registered.cls, message


# --- rio shutdown, rio stop -----------------------------------------------------------------------


def add_shutdown_options(parser: CommandParser) -> None:
    options.add_object(parser)
    parser.add_argument("--force", action="store_true", help="cancel what the object handles now")
    options.add_timeout(parser)


def shut_object_down(arguments: Arguments) -> None:
    """Have an object leave memory."""
    type_name, id = arguments.type_name, arguments.id
    run(_administer(arguments, AdminCommand.shutdown(type_name, id, force=arguments.force)))


def add_stop_options(parser: CommandParser) -> None:
    parser.add_argument(
        "address",
        metavar="ADDRESS",
        type=options.read_address,
        help="the address of the server, as `rio members` lists it",
    )
    options.add_timeout(parser)


def stop_server(arguments: Arguments) -> None:
    """Have a server drain and stop."""
    run(_administer(arguments, AdminCommand.server_exit(arguments.address)))


async def _administer(arguments: Arguments, command: AdminCommand) -> None:
    async with _client(arguments) as client:
        await client.admin(command)


def _client(arguments: Arguments) -> Client:
    storage = _shared_storage(arguments)
    return Client(storage, timeout=arguments.timeout, security=arguments.security)


def _shared_storage(arguments: Arguments) -> str:
    """The URL of a storage that this process shares with the servers.

    :raises ConfigurationError: it is in the memory of one process.
    """
    if arguments.storage.lower().startswith("memory:"):
        raise ConfigurationError(
            "memory:// belongs to one process, and is empty here:"
            " name the storage that the servers share"
        )
    return arguments.storage


# --- rio migrate ----------------------------------------------------------------------------------

MIGRATE = """\
Migrate the databases of a stopped cluster to the tables of this version of rio. Make a backup
first: there is no way back. A database whose tables are already those of this version is left as it
is, so a migration that was cut off is finished by running the command again.
"""

MIGRATE_EXAMPLES = """\
  rio migrate --check --storage sqlite:///bank.db
  rio migrate --storage redis://cache/0 --state postgres://db/bank

exit codes:
  0   the tables are those of this version
  1   an error; with --check, a migration is needed
  2   wrong usage
"""


def add_migrate_options(parser: CommandParser) -> None:
    options.add_roles(parser)
    parser.add_argument(
        "--check",
        action="store_true",
        help="only say what a migration would do, and change nothing",
    )


def migrate_databases(arguments: Arguments) -> int:
    """Migrate the databases of a storage, or say what that would do."""
    storage = open_storage(_shared_storage(arguments), **arguments.roles())
    schemas = run(read_schemas(storage))
    for status in schemas:
        _print_schema(status)
    outdated = any(status.outdated for status in schemas)
    if arguments.check:
        return 1 if outdated else 0
    run(migrate(storage))
    if outdated:
        print("migrated")
    return 0


def _print_schema(status: SchemaStatus) -> None:
    status.check_newer()
    if not status.found:
        print(f"{status.database}: no tables yet; the first server makes them")
        return
    print(f"{status.database}: schema {status.found}, this rio needs {status.wanted}")
    for schema, summary in enumerate(status.summaries, status.found + 1):
        print(f"  to schema {schema}: {summary}")
    if status.outdated and status.live_members:
        print(f"  servers that must be stopped first: {', '.join(status.live_members)}")


# --- rio state ------------------------------------------------------------------------------------

STATE = """\
Check whether the saved states of a storage can be loaded by the classes of a registry, for example
before servers with newer code are started. It reads the states, runs the upcasters, and writes
nothing. Or migrate them: rewrite those of an older schema, so that their upcasters can go. Do that
when all servers run the newer code. Objects that are in use go on. With --keyring, states that are
not encrypted under its first key are encrypted under it, so that the other keys can go.
"""

STATE_EXAMPLES = """\
  rio state check bank:registry --storage sqlite:///bank.db
  rio state check bank:registry --storage postgres://db/bank --sample 1000
  rio state migrate bank:registry --storage postgres://db/bank
  rio state migrate bank:registry --storage sqlite:///bank.db --keyring keys --plain-states accept

exit codes:
  0   all that was looked at can be loaded
  1   an error, or a state that cannot be loaded
  2   wrong usage
"""

EXAMPLES_SHOWN = 3
"""Ids of objects that are printed with a problem, at most."""


def add_state_options(parser: CommandParser) -> None:
    parser.add_argument(
        "action", metavar="check|migrate", choices=["check", "migrate"], help="what to do"
    )
    options.add_registry(parser)
    options.add_roles(parser)
    options.add_keyring(parser)
    parser.add_option(
        "--sample",
        metavar="N",
        type=options.read_count,
        help="look at the first N objects of each type; all by default",
    )


def check_saved_states(arguments: Arguments) -> int:
    """Print which saved states cannot be loaded; rewrite those of older schemas if asked to."""
    registry = load_registry(arguments.registry)
    storage = arguments.open_storage(_shared_storage(arguments))
    migrates = arguments.action == "migrate"
    reports = run(_check_states(registry, storage, arguments.sample, rewrite=migrates))
    for report in reports:
        _print_report(report)
        if migrates:
            print(f"  {report.rewritten} rewritten")
    return 1 if any(report.failures for report in reports) else 0


async def _check_states(
    registry: Registry, storage: Storage, sample: int | None, *, rewrite: bool
) -> list[TypeReport]:
    try:
        await check_found(storage)
        return await check_states(registry, storage.state, sample, rewrite=rewrite)
    finally:
        await storage.close()


def _print_report(report: TypeReport) -> None:
    failed = len({id for ids in report.failures.values() for id in ids})
    print(f"{report.type_name}: {report.objects} objects, {failed} cannot be loaded")
    for problem, ids in report.failures.items():
        examples = ", ".join(ids[:EXAMPLES_SHOWN])
        print(f"  {problem}\n    {len(ids)} objects, for example {examples}")


# --- rio keygen -----------------------------------------------------------------------------------

KEYGEN = """\
Add a new key to a security file, and make the file if there is none. Servers hold all keys, a
client only its own:

  rio keygen servers.toml                              a key for the servers
  rio keygen web.toml --role call --also servers.toml  a key for a client, which servers accept

  rio keygen collector.token --http --also servers.toml  a token for who reads the HTTP pages

  rio keygen servers.toml --certificates               a certificate too, or a new one

Python before 3.13 encrypts by certificates only. They are signed by the authority ca.pem beside the
file, which is made if there is none, with its key in ca.key: keep that one where no server runs.
A client's file gets the authority alone. Servers may share a file and its certificate. A copy of it
under another name gets a certificate of its own, once the lines about the first one are taken out.

The first key in a file is the one that its process proves itself by: to replace a key, add another
one everywhere, move it to the top everywhere, and remove the old one. Servers and clients read the
file again when it changes.
"""

KEYGEN_EXAMPLES = """\
  rio keygen bank.toml
  rio keygen web.toml --role call --allow 'Account.*' --also bank.toml
  rio keygen ops.toml --role admin --also bank.toml
  rio keygen collector.token --http --also bank.toml
  rio keygen bank.toml --certificates --days 90 --host bank.example
"""


def add_keygen_options(parser: CommandParser) -> None:
    parser.add_argument("file", metavar="FILE", help="the file of whoever shall hold the key")
    parser.add_argument("--role", choices=ROLES, default="node", help="node by default")
    parser.add_argument(
        "--http",
        dest="token",
        action="store_true",
        help="make a token instead, which a collector of metrics sends to see the HTTP pages: FILE"
        " gets the token alone",
    )
    parser.add_argument(
        "--id", dest="key_id", metavar="ID", help="the name of the key; by default role and date"
    )
    parser.add_argument(
        "--allow",
        metavar="TYPE.MESSAGE",
        action="append",
        default=[],
        help="what a call or an observe key may send; * is any text; may be given several times",
    )
    parser.add_argument(
        "--also",
        metavar="FILE",
        action="append",
        default=[],
        help="a file of servers that shall accept the key; may be given several times",
    )
    parser.add_argument(
        "--encryption",
        choices=ENCRYPTIONS,
        help="what a new file says: key (the default, from Python 3.13 on), certificates or none",
    )
    parser.add_argument(
        "--certificates",
        action="store_true",
        help="make a certificate for the servers of FILE; a file that exists gets no further key",
    )
    parser.add_argument(
        "--days",
        metavar="N",
        default=365,
        type=options.read_count,
        help="how long the certificate is valid; 365 by default",
    )
    parser.add_argument(
        "--host",
        metavar="NAME",
        dest="hosts",
        action="append",
        default=[],
        help="a name or an address of the server that HTTP clients may check; may be given several"
        " times",
    )


def make_key(arguments: Arguments) -> None:
    """Add a new key, or a token, to the files."""
    if arguments.token:
        _make_token(arguments)
        return
    if arguments.certificates:
        is_new = not Path(arguments.file).exists()
        _make_certificates(Path(arguments.file), arguments)
        if not is_new:
            return
    name = arguments.key_id or f"{arguments.role}-{date.today().isoformat()}"
    key = Key.generate(name, cast(Role, arguments.role), tuple(arguments.allow) or ("*",))
    for file in [arguments.file, *arguments.also]:
        add_key(Path(file), key, arguments.encryption if file == arguments.file else None)
        print(f"added key {name!r} of role {arguments.role} to {file}")


def _make_certificates(file: Path, arguments: Arguments) -> None:
    """Give a file of servers a certificate, or that of a client the authority."""
    try:
        from rio.security.authority import CERTIFICATE, Authority
    except ImportError as error:
        raise ConfigurationError(
            f"certificates are made by the package cryptography ({error}):"
            " pip install 'rio-actors[crypto]'"
        ) from error
    own = file.with_suffix(".pem") if arguments.role == "node" else None
    if arguments.encryption is not None or (own and own.name == CERTIFICATE):
        raise ConfigurationError("--certificates takes no --encryption, and no file called ca")
    try:
        signer = Authority.found_in(file.parent)
        if signer is None and own is None:
            raise ConfigurationError(f"there is no {CERTIFICATE} beside {file}")
        if signer is None:
            signer = Authority.made_in(file.parent)
            print(f"made an authority: {file.with_name(CERTIFICATE)}")
        name_certificates(file, own.name if own else None, CERTIFICATE)
        if own is not None:
            signer.issue(own, arguments.days, arguments.hosts)
            print(f"made a certificate for {arguments.days} days: {own}")
    except OSError as error:
        raise ConfigurationError(f"{error.filename} cannot be written: {error.strerror}") from None


def _make_token(arguments: Arguments) -> None:
    if arguments.allow or arguments.encryption or arguments.role != "node":
        raise ConfigurationError("--http makes a token, which has no role, allow or encryption")
    if Path(arguments.file).exists():
        raise ConfigurationError(f"{arguments.file} exists: a token has a file of its own")
    name = arguments.key_id or f"http-{date.today().isoformat()}"
    token = make_token()
    for file in arguments.also:
        add_token(Path(file), name, token)
        print(f"added HTTP token {name!r} to {file}")
    write_token(Path(arguments.file), token)
    print(f"wrote HTTP token {name!r} to {arguments.file}")


# --- the table ------------------------------------------------------------------------------------


def _add_nothing(parser: CommandParser) -> None: ...


COMMANDS = {
    command.name: command
    for command in [
        Command(
            "run",
            "serve the objects of a registry",
            RUN,
            RUN_EXAMPLES,
            add_run_options,
            run_servers,
        ),
        Command(
            "members",
            "list the servers of a cluster",
            "List the servers of a cluster with their addresses and statuses.",
            "  rio members --storage sqlite:///bank.db",
            _add_nothing,
            list_members,
        ),
        Command(
            "settings",
            "show or change what all servers must agree on",
            SETTINGS,
            SETTINGS_EXAMPLES,
            add_settings_options,
            manage_settings,
        ),
        Command(
            "send",
            "send a message to an object",
            SEND,
            SEND_EXAMPLES,
            add_send_options,
            send_message,
        ),
        Command(
            "shutdown",
            "have an object leave memory",
            "Have an object leave memory, wherever it lives.\n"
            "Its next message brings it back with its saved state.",
            "  rio shutdown Account ada --storage sqlite:///bank.db",
            add_shutdown_options,
            shut_object_down,
        ),
        Command(
            "stop",
            "have a server drain and stop",
            "Ask a server to let its objects finish, hand them over to other servers, and end.",
            "  rio stop 127.0.0.1:40123 --storage sqlite:///bank.db",
            add_stop_options,
            stop_server,
        ),
        Command(
            "migrate",
            "migrate the databases of a stopped cluster",
            MIGRATE,
            MIGRATE_EXAMPLES,
            add_migrate_options,
            migrate_databases,
        ),
        Command(
            "state",
            "check whether saved states can be loaded, or migrate them",
            STATE,
            STATE_EXAMPLES,
            add_state_options,
            check_saved_states,
        ),
        Command(
            "keygen",
            "make a key for servers or clients",
            KEYGEN,
            KEYGEN_EXAMPLES,
            add_keygen_options,
            make_key,
            uses_cluster=False,
        ),
    ]
}
"""By their names, in the order of the help text."""
