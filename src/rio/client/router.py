"""The slow path of a call in the client: which server it goes to, and what follows an error.

The compiled caller sends a call without the router while it knows where the object is.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Iterator
from contextlib import AsyncExitStack
from typing import TYPE_CHECKING, Any, cast

from msgspec.structs import replace

from rio._core.calls import Call, Caller
from rio._core.clock import Clock
from rio._core.dispatch import Turn
from rio._core.frame import DEFAULT_FRAME_LIMIT
from rio._core.spin import Spinner
from rio._core.wire import Kind
from rio.backoff import make_rng
from rio.client import forks, retry
from rio.client.access import ClusterAccess
from rio.client.deadlines import Deadlines, expiry_of
from rio.client.lines import Line, Lines
from rio.client.members import Members
from rio.client.message_codecs import MessageCodecs
from rio.client.pool import Peer, Pool
from rio.client.retry import Next
from rio.client.server_choice import ServerChoice
from rio.client.subscriptions import Subscriptions
from rio.client.waiting_calls import WaitingCalls
from rio.contracts.membership import Member, MembershipSnapshot
from rio.errors import (
    APPLICATION_ERROR,
    CallRefused,
    CallTimeout,
    ConfigurationError,
    ConnectionLost,
    Draining,
    Expired,
    NoServersAvailable,
    NotAuthenticated,
    NotExecuted,
    OutcomeUnknown,
    Overloaded,
    RioError,
    WrongServer,
    from_code,
)
from rio.logs import Logger
from rio.objects.application_error import decode_application_error
from rio.observability.finder import find_tracer
from rio.transport import protocol
from rio.transport.client_connection import ClientConnection
from rio.transport.protocol import Hello

if TYPE_CHECKING:
    import random

logger = Logger("rio.client")


class Router:
    """Owns the compiled caller, and what it takes to find a way for a call: the members, the
    connections to them, and the calls that wait.

    ``spinner``: what keeps the loop awake, if anything does. It is open as long as the router.
    """

    def __init__(
        self,
        access: ClusterAccess,
        *,
        timeout: float,
        refresh_interval: float = 5.0,
        route_limit: int = 200_000,
        frame_limit: int = DEFAULT_FRAME_LIMIT,
        spinner: Spinner | None = None,
        clock: Clock | None = None,
        rng: random.Random | None = None,
    ) -> None:
        for name, seconds in (("timeout", timeout), ("refresh_interval", refresh_interval)):
            if not seconds > 0:
                raise ConfigurationError(f"{name}= takes seconds above 0, got {seconds!r}")
        self.caller = Caller(
            self, MessageCodecs(), default_timeout=timeout, route_limit=route_limit, clock=clock
        )
        self._rng = rng or make_rng()
        self.members = Members(access, self, refresh_interval, self._rng)
        self.pool = Pool(access, self, frame_limit, spinner)
        self.waiting = WaitingCalls()
        self.subscriptions = Subscriptions(self.caller, self._find, lambda: self.pool.connections)
        self._lines = Lines(self)
        self._access = access
        self._choice = ServerChoice(access, self.pool, self.members, self.now)
        self._deadlines = Deadlines(self.caller, self.pool, self.waiting)
        self._spinner = spinner
        self._use: object | None = None
        """Stands for the time from one :meth:`open` to the next :meth:`close`."""
        # The caller and the connections ask their owner for these; the parts answer themselves.
        self.arm = self._deadlines.arm
        self.withdraw = self.waiting.withdraw
        self.reconsider = self._choice.reconsider
        self.event = self.subscriptions.event
        self.stream_ended = self.subscriptions.stream_ended

    async def open(self) -> None:
        """Read the membership. Servers are connected when they are first needed.

        :raises StorageError: the membership cannot be read.
        :raises RuntimeError: the client is open already, or was closed meanwhile.
        """
        if self._use is not None:
            raise RuntimeError("this client is open already: open it once, or make another one")
        use = self._use = object()
        try:
            await self._access.open()
            await self.members.open()
            if self._use is not use:
                raise RuntimeError("this client was closed while it was being opened")
        except BaseException:
            if self._use is use:
                self._use = None
            await self.members.close()
            await self._access.close()
            raise
        self.caller.loop = asyncio.get_running_loop()
        self.caller.tracer = find_tracer()
        self.pool.watch()
        if self._spinner is not None:
            self._spinner.open()
        forks.watch(self)

    @property
    def is_open(self) -> bool:
        return self.members.is_followed

    async def close(self) -> None:
        """End all calls, and close all connections. Idempotent; afterwards it can be opened again.

        :raises RuntimeError: the client was opened in another thread or event loop.
        """
        if self.caller.why_not_open == forks.FORKED:
            return  # there is nothing left here
        if self.caller.loop is not None:
            self.caller.check_loop()
        self.caller.loop = self._use = None
        if self._spinner is not None:
            self._spinner.close()
        for call in list(self.waiting):
            self.waiting.withdraw(call)
            call.fail(NotExecuted("the client was closed before the call was sent"))
        async with AsyncExitStack() as stack:
            # What is pushed last comes first, and all of it comes, also after a cancellation.
            stack.push_async_callback(self._access.close)
            stack.callback(self._rest)
            stack.push_async_callback(self.pool.close)
            stack.push_async_callback(self.members.close)
            stack.push_async_callback(self.subscriptions.close)

    def _rest(self) -> None:
        self._deadlines.close()
        self.caller.rearm(math.inf)
        self._choice.reconsider()  # it remembers servers whose connections are closed

    def disown(self) -> None:
        """This is the child of a fork: touch nothing that the parent uses."""
        if self.caller.loop is None:
            return
        self.caller.loop = None
        self.caller.why_not_open = forks.FORKED
        self.members.rest()
        self.pool.rest()
        self._deadlines.close()
        if self._spinner is not None:
            self._spinner.close()
        forks.cut_off(self.pool.connections)

    def now(self) -> float:
        """Seconds on the clock of deadlines."""
        return self.caller.now()

    async def request(self, address: str, kind: Kind) -> float:
        """Ask a server itself, and no object. Returns how many seconds the answer took.

        :raises NotExecuted: the server cannot be reached.
        :raises ConnectionLost: the connection broke before the answer came.
        :raises CallTimeout: the answer did not come in time.
        """
        self.caller.check_loop()
        try:
            async with asyncio.timeout(self.caller.default_timeout):
                connection = await self.pool.peer(address).connect()
                began = self.now()
                await connection.request(kind)
        except TimeoutError as error:
            text = f"{address} did not answer within {self.caller.default_timeout} seconds"
            raise CallTimeout(text) from error
        return self.now() - began

    # --- whom this is -----------------------------------------------------------------------------

    def introduction(self) -> Hello:
        """How this client introduces itself to a server."""
        return replace(self._access.introduction(), cluster=self.members.snapshot.cluster_id)

    def check_identity(self, address: str, server: Hello) -> None:
        """Make sure that the server that was found at an address is the one that was meant.

        :raises WrongServer: it is not. The members are read again before the next attempt.
        """
        snapshot = self.members.snapshot
        protocol.check_cluster(server, snapshot.cluster_id)
        meant = {
            member.generation
            for member in snapshot.members
            if member.address == address and not member.status.terminal
        }
        if server.generation and meant and server.generation not in meant:
            raise WrongServer(
                f"{address} was member {max(meant)}, and is member {server.generation} now"
            )

    # --- finding a server -------------------------------------------------------------------------

    def route(self, call: Call) -> None:
        """Send a new call to an object whose place is not known."""
        if (line := self._lines.find(call.type_name, call.id)) is not None:
            line.join(call)
            self._park(call)
            return
        peer = self._choice.choose(call)
        if peer is None or (connection := peer.connection) is None or not connection.usable:
            self._lines.join(call).advance()
        else:
            self.caller.learn(call.type_name, call.id, connection)  # the calls after it follow
            self._write(call, connection)

    def start(self, call: Call) -> None:
        """Find a server for a call that is the first of its line."""
        if call.done():
            return  # it is about to leave
        self.waiting.discard(call)
        peer = self._choice.choose(call)
        if peer is None:
            self.waiting.add(call, None)
            self.members.refresh_soon()
        else:
            self._send(peer, call)

    def _send(self, peer: Peer, call: Call) -> None:
        """Send a call to a server now, or as soon as it is connected."""
        connection = peer.connection
        if not call.line.begins_with(call):
            self._park(call)
        elif connection is None or not connection.usable:
            self.waiting.add(call, peer)
            peer.add(call)
        else:
            line: Line = call.line
            line.send(call, connection)
            line.advance()

    def _park(self, call: Call) -> None:
        """Have a call wait for those before it."""
        line: Line = call.line
        self.waiting.add(call, line)
        line.park(call)

    def submit(self, call: Call, connection: ClientConnection) -> None:
        """Write a call that may have waited."""
        if call.done():
            return  # it is about to leave
        self.waiting.withdraw(call)
        self._write(call, connection)

    def _write(self, call: Call, connection: ClientConnection) -> None:
        if call.deadline <= self.now():
            call.fail(expiry_of(call))
            return
        try:
            connection.submit(call, is_routed=True)
        except RioError as error:
            call.fail(error)

    def resume(self, peer: Peer, call: Call) -> None:
        """The server that a call has waited for is connected."""
        self.waiting.discard(call)
        self._send(peer, call)

    def send_elsewhere(self, call: Call, error: NotExecuted) -> None:
        """The server that a call has waited for cannot be reached."""
        self.waiting.discard(call)
        self.members.refresh_soon()
        active = self.members.snapshot.active
        if active and all(self.pool.peer(member.address).failures for member in active):
            if isinstance(error, NotAuthenticated):
                self._fail_line(call, error)  # to ask again would not help
                return
            count = f"none of the {len(active)} active members can be reached"
            error = NoServersAvailable(f"{self._access.name}: {count}; the last one: {error}")
        self._try_later(call, error)

    def _fail_line(self, call: Call, error: RioError) -> None:
        """Fail a call that found no server, and with it all that wait for it."""
        for waiting in call.line.dismiss():
            self.waiting.withdraw(waiting)
            waiting.fail(error)

    def yield_calls(self, connection: ClientConnection) -> None:
        """A connection takes no more calls: those that follow wait for those that are on it."""
        self._lines.line_up(connection.find_loose(), connection)

    # --- calls that are awaited, and those that are not -------------------------------------------

    def find_awaited(self, turn: Turn) -> Iterator[Call]:
        """The calls that were made during a turn, are on their way, and are awaited."""
        for connection in self.pool.connections:
            yield from connection.find_awaited(turn)

    def told(self, call: Call) -> None:
        """A call was sent whose answer nobody awaits.

        :raises NotExecuted: it is known already that it does not run.
        :raises CallRefused: the same.
        """
        if call.done() and isinstance(error := call.exception(), (NotExecuted, CallRefused)):
            raise error
        call.add_done_callback(_log_told)

    # --- an answer that is an error ---------------------------------------------------------------

    def refused(
        self, call: Call, error: tuple[str, str, Any], connection: ClientConnection
    ) -> None:
        """A server has answered with an error."""
        code, text, detail = error
        if code == APPLICATION_ERROR:
            call.note_place(connection)
            call.fail(decode_application_error(detail))
        else:
            self._handle_error(call, from_code(code, text, detail), connection)

    def lost(self, connection: ClientConnection, calls: list[Call], error: RioError) -> None:
        """A connection is gone, and with it the answers to these calls."""
        self.subscriptions.connection_lost(connection)
        if self.caller.loop is not None:
            self._lines.line_up((call for call in calls if _returns(call, error)), connection)
        for call in calls:
            self._handle_error(call, error, connection)

    def _handle_error(self, call: Call, error: RioError, connection: ClientConnection) -> None:
        if call.done():
            return
        if self.caller.loop is None or not _returns(call, error) or self._is_too_late(call, error):
            call.fail(_end_of(call, error))
            return
        if isinstance(error, OutcomeUnknown):
            call.doubt = error
        self._note_return(call, error, connection)
        line = self._lines.take_back(call, connection)
        line.last_error = error
        if line.begins_with(call):
            line.claim_start(call)
            self._try_again(call, error)
        else:
            self._park(call)

    def _is_too_late(self, call: Call, error: RioError) -> bool:
        """Whether the time is over when a busy server would take the call."""
        pause = _pause_of(error)
        return pause > 0 and self.now() + pause > call.deadline

    def _note_return(self, call: Call, error: RioError, connection: ClientConnection) -> None:
        """Note what a call that has not run says about the place of its object, and the server."""
        self.caller.forget(call.type_name, call.id)
        if isinstance(error, (Draining, ConnectionLost)):
            self.members.refresh_soon()
        if retry.decide(error, repeatable=call.repeatable) is Next.ANOTHER:
            address = self.pool.address_of(connection)
            call.refusals = {**(call.refusals or {}), address: error.message}
            call.last_error = error

    def _try_again(self, call: Call, error: RioError) -> None:
        """Send a call again that is the first of its line."""
        if call.span is not None:
            call.span.note("rio.retry", error=type(error).__qualname__, text=error.message)
        match retry.decide(error, repeatable=call.repeatable):
            case Next.FOLLOW:
                self._follow_redirect(call, error)
            case Next.ANOTHER:
                self.start(call)
            case _:
                self._try_later(call, error)

    def _follow_redirect(self, call: Call, error: RioError) -> None:
        address, generation = error.detail
        call.hops += 1
        if call.hops <= retry.MAX_REDIRECTS and self._takes_calls(address, generation):
            self._send(self.pool.peer(address), call)
        else:
            self.members.refresh_soon()
            self._try_later(call, error)

    def _takes_calls(self, address: str, generation: int) -> bool:
        """Whether a member is alive as far as we know, and could be reached lately."""
        member = self.members.snapshot.find(generation)
        return (
            member is not None
            and not member.status.terminal
            and member.address == address
            and self.now() >= self.pool.peer(address).avoid_until
        )

    def _try_later(self, call: Call, error: RioError) -> None:
        """Try again after a while; the deadline ends it."""
        call.attempts += 1
        call.hops = 0
        call.last_error = call.line.last_error = error
        delay = max(_pause_of(error), retry.delay(call.attempts, self._rng))
        self.waiting.add(call, self.caller.loop.call_later(delay, self.start, call))

    def _find(self, type_name: str, id: str) -> ClientConnection | None:
        """The connection behind which an object has answered."""
        line = self._lines.find(type_name, id)
        if line is not None:
            return line.place
        return cast("ClientConnection | None", self.caller.find(type_name, id))

    # --- news of the membership -------------------------------------------------------------------

    def follow_members(self, before: MembershipSnapshot) -> None:
        """The members have been read; ``before`` is what was known of them until now."""
        members = self.members.snapshot
        if before.cluster_id not in ("", members.cluster_id):
            self._choice.reconsider()
            self.pool.break_off("the storage lists the members of another cluster now")
            before = MembershipSnapshot(0, 0)
        known = {member.generation for member in before.members}
        for member in members.members:
            if member.generation not in known:
                self.pool.renew(member.address)
        if members.version != before.version:
            self._choice.reconsider()
            for call in self.waiting.take_for_attempt():
                self.start(call)
        self.pool.follow(members)

    def send_waiting(self, failure: RioError | None) -> None:
        """Send the calls that wait for news of the membership. Those for which there is no server
        wait for the next news.
        """
        for call in self.waiting.take_for_members():
            peer = self._choice.choose(call)
            if peer is not None:
                self._send(peer, call)
            elif call.refusals and call.last_error is not None:
                call.fail(call.last_error)  # every server was asked
            else:
                self._miss_servers(call, NoServersAvailable(self._shortcoming(failure)))
        self.members.note_need(unmet=self.waiting.need_members)

    def _miss_servers(self, call: Call, error: NoServersAvailable) -> None:
        """No server takes a call now. The next may be about to start."""
        if self._access.is_patient:
            call.last_error = call.line.last_error = error
            self.waiting.add(call, None)
        else:
            self._fail_line(call, error)

    def _shortcoming(self, failure: RioError | None) -> str:
        """Why the membership names no server."""
        if failure is not None:
            return f"the members of {self._access.name} cannot be read: {failure}"
        members = self.members.snapshot.members
        return f"{self._access.name} lists no active server: {_list_members(members)}"

    def relax(self) -> None:
        """Give back memory that was not needed since the last time."""
        self.pool.relax()


def _log_told(call: Call) -> None:
    error = None if call.cancelled() else call.exception()
    if error is not None:
        what = f"{call.message_name} to {call.type_name}/{call.id}, which nobody awaits"
        logger.warning("%s, has failed: %s: %s", what, type(error).__name__, error)


def _end_of(call: Call, error: RioError) -> RioError:
    """The error of a call that is not sent again."""
    if call.overdue and isinstance(error, NotExecuted) and not isinstance(error, Expired):
        call.last_error = error
        return expiry_of(call)
    return error


def _pause_of(error: RioError) -> float:
    """Seconds for which a busy server takes no more calls."""
    return error.retry_after if isinstance(error, Overloaded) else 0.0


def _returns(call: Call, error: RioError) -> bool:
    """Whether a call that failed so is sent again."""
    return not call.overdue and retry.decide(error, repeatable=call.repeatable) is not Next.RAISE


def _list_members(members: tuple[Member, ...]) -> str:
    if not members:
        return "it holds no members: has a server been started on this storage?"
    text = ", ".join(f"{member.address} is {member.status.name}" for member in members)
    return f"it holds {len(members)}: {text}"
