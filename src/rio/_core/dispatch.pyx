# cython: language_level=3
"""One request on its way through a server: find the object, admit, take a turn, decode, call the
handler, encode, write.

All of that happens in one C call for everything that a read brought. A slow case (an object that is
not in memory, an exception, a reply of an unexpected class) leaves through a method of ``runtime``,
the Python owner, and comes back through a method of the turn or the mailbox.
"""

import contextvars
import os
from asyncio import CancelledError
from collections import deque

from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from cpython.contextvars cimport (
    PyContext_Copy,
    PyContext_Enter,
    PyContext_Exit,
    PyContextVar_Set,
    get_value,
)
from cpython.unicode cimport PyUnicode_AsUTF8AndSize, PyUnicode_DecodeUTF8
from libc.math cimport INFINITY
from libc.stdint cimport uint64_t
from libc.string cimport memcmp

cimport cython

cimport rio._core.limits as limits
from rio._core.backlog cimport Backlog
from rio._core.budget cimport Budget, Usage, for_clients, room
from rio._core.clock cimport system_clock
from rio._core.connection cimport Connection
from rio._core.frame cimport ReceiveBuffer
from rio._core.hidden cimport hide
from rio._core.msgpack cimport bytes_of
from rio._core.task cimport options_of_task, start, start_in
from rio._core.wire cimport Frame, Kind, Request, Text, take_request

from rio.errors import (
    BadIdentity,
    BadMessage,
    CallFailed,
    CallTimeout,
    Expired,
    Forbidden,
    HandlerFailed,
    OutcomeUnknown,
    Overloaded,
    ProtocolError,
    ReplyTooLarge,
    Unavailable,
    UnknownMessage,
    UnknownType,
)


cdef extern from "Python.h":
    """
    #if defined(_MSC_VER)
    static __declspec(thread) PyObject* rio_plain_turn = NULL;
    #else
    static __thread PyObject* rio_plain_turn = NULL;
    #endif
    """
    ctypedef struct PyObject:
        pass
    # that of the def handler which this thread is in; borrowed from whoever called the handler
    PyObject* plain_turn "rio_plain_turn"


WAITING_LIMIT = limits.WAITING_LIMIT
IN_FLIGHT_LIMIT = limits.IN_FLIGHT_LIMIT
MAX_TIMEOUT = limits.MAX_TIMEOUT
HELD_LIMIT = limits.HELD_LIMIT
HIGH_WATER = limits.HIGH_WATER

# Seconds since the last sweep, which is due each tenth of a second, after which the loop has stood
# still: it was blocked, or its process stopped.
cdef double STALL = 0.25

# Seconds.
cdef double RECOUNT = 0.005         # between two counts of the unsent bytes of all clients
cdef double LOOP_GAP = 0.0002       # a pause in which the loop has served everything else
# While several clients are served, each keeps the loop for a slice at most, and for half of the
# time in the long run. One that has sent more is behind: the rest waits until the loop has served
# everything else, and goes on a slice at a time. While others keep up, the slices are short, so
# that who sends little waits little; those that are behind have the time in which the others need
# nothing, and a fifth of it together where they need all. For one that is alone a slice is the
# loop's budget.
cdef double SLICE = 0.0002
cdef double SHORT_SLICE = 0.00002
cdef double SHARE = 0.5             # of the time, for one that keeps up
cdef double CATCH_UP = 0.25         # of the time of all others, for those that are behind
cdef double CONTENTION = 0.02       # since others were served
# A request that would wait longer is refused at once, and one that has waited longer than that,
# because others took more time than they seemed to, is not run any more.
cdef double MOST_WAIT = 1.0
cdef double LONGEST_WAIT = 2.0
# A frame that has begun must be whole after so many seconds, and those that its bytes take at so
# many a second. The others hold while more than half of the room for large frames is taken.
cdef double FRAME_PATIENCE = 10, LEAST_RATE = 64 * 1024
cdef double HASTY_PATIENCE = 1, HASTY_RATE = 256 * 1024
cdef double DEADLINE_PRECISION = 0.005      # deadlines travel in milliseconds

cdef object UNDER_WAY = object()    # instead of the result of a handler that waits for something

cdef object current_turn = contextvars.ContextVar("rio_current_turn", default=None)

# The values of the program's own rio.ContextVars that the running code sees, an object with their
# encoded form in `context`; None: there are none. Nobody looks before such a variable exists.
cdef object carried_values = contextvars.ContextVar("rio_carried_values", default=None)
CARRIED_VALUES = carried_values
cdef bint carries_values = False
# how a context begins that holds nothing but a chain
cdef bytes CHAIN_ONLY = b"\x81\xa5chain"
# how a context goes on, after the head of its map, that says that the trace is not sampled
cdef bytes UNSAMPLED = b"\xa5trace\xc2"
cdef bytes ONLY_UNSAMPLED = b"\x81" + UNSAMPLED


cdef Turn running_turn():
    """The turn that the running code belongs to, or None: outside of any, or after its turn has
    ended.
    """
    value = <object>plain_turn if plain_turn is not NULL else get_value(current_turn, None)
    if value is None:
        return None
    cdef Turn turn = <Turn?>value
    return None if turn.finished else turn


cdef bint is_in_a_plain_handler() noexcept:
    # Whether the running code is that of a handler without a task.
    return plain_turn is not NULL


def current():
    """The turn that the running code belongs to, or ``None``."""
    return running_turn()


def carry_values():
    """Have values travel with calls from now on."""
    global carries_values
    carries_values = True


def outside_of_turns():
    """A copy of the context of the running code, in which no turn runs."""
    context = contextvars.copy_context()
    context.run(current_turn.set, None)
    return context


# --- the dispatch table ---------------------------------------------------------------------------

@cython.final
cdef class Method:
    """One row of the dispatch table: a handler, and how its message and reply travel."""

    def __cinit__(
        self,
        handler,
        str name,
        *,
        function,
        decode,
        encode,
        reply_class,
        bint is_async,
        bint takes_app_data,
        timeout,
        bint takes_turn=True,
    ):
        self.handler = handler
        self.name = name
        self._function = function
        self._decode = decode
        self._encode = encode
        self._reply_class = reply_class
        self._is_async = is_async
        self._takes_app_data = takes_app_data
        self.takes_turn = takes_turn
        self._timeout = timeout or 0.0


@cython.final
cdef class TypeTable:
    """What one node knows of one type: its handlers, and its objects that are in memory."""

    def __cinit__(self, str type_name, methods):
        self.type_name = type_name
        self._methods = {(<Method?>method).name: method for method in methods}
        self.mailboxes = {}

    @property
    def methods(self):
        """Message name to :class:`Method`, a copy."""
        return dict(self._methods)


# --- one object -----------------------------------------------------------------------------------

cdef class Mailbox:
    """One object in memory: at most one turn runs, the others wait in the order in which they came.

    It is in its table from the moment its activation begins, so that all who ask for the object
    meanwhile wait for the same one.
    """

    def __init__(self, TypeTable table not None, str id not None):
        self.table = table
        self.id = id
        self.instance = None
        self.turn = None
        self._waiting = None
        self.open = False
        self.closing = False
        self.used_at = -INFINITY
        self.used_again = False
        self._is_put_off = False
        self.token = self.weight = 0
        self.failed = self.superseded = self.shutting_down = self.ended = False
        self.keep_until = -INFINITY
        table.mailboxes[id] = self

    @property
    def waiting(self):
        """How many turns wait."""
        return 0 if self._waiting is None else len(self._waiting)

    @property
    def first_waiting(self):
        """The turn that has waited longest, or ``None``."""
        return None if self._waiting is None else self._waiting[0]

    def begin(self, Dispatcher dispatcher not None, Turn first=None):
        """Take the turn for the lifecycle hooks, in the context of the caller; it ends with
        :meth:`start` or :meth:`remove`.

        ``first``: the turn that asks for the object, if the hooks are to bring it to life. It waits
        here, and whoever waits for it waits for the hooks as well. The turn of earlier hooks that
        did not end is over.
        """
        self._end_lifecycle()
        cdef Turn turn = Turn.__new__(Turn)
        if self.table is None:
            raise TypeError("the mailbox belongs to no type")
        dispatcher._last_turn += 1
        turn.number = dispatcher._last_turn
        turn.dispatcher = dispatcher
        turn.mailbox = self
        turn.table = self.table
        turn.id = self.id
        self.open = False
        self.turn = turn
        if first is not None:
            turn.context = first.context
            first.wait_for(self)
        PyContextVar_Set(current_turn, turn)

    def start(self, Dispatcher dispatcher not None):
        """The instance is ready: run what waits, and take turns from now on."""
        self._end_lifecycle()
        self.open = True
        dispatcher._pump(self)

    def remove(self):
        """Leave the table, and return the turns that waited."""
        self._end_lifecycle()
        self.open = False
        if self.table.mailboxes.get(self.id) is self:
            del self.table.mailboxes[self.id]
        waiting, self._waiting = self._waiting, None
        return [] if waiting is None else [turn for turn in waiting if not (<Turn>turn)._abandoned]

    cdef int _end_lifecycle(self) except -1:
        if self.turn is not None and self.turn.method is None:
            self.turn.finished = True
            self.turn = None
        return 0

    cdef int _wait(self, Turn turn) except -1:
        if self._waiting is None:
            self._waiting = deque()
        self._waiting.append(turn)
        return 0

    cdef int _wait_first(self, Turn turn) except -1:
        if self._waiting is None:
            self._waiting = deque()
        self._waiting.appendleft(turn)
        return 0

    cdef Turn _next(self):
        # The turn that has waited longest leaves the queue.
        turn = self._waiting.popleft()
        if not self._waiting:
            self._waiting = None
        return <Turn>turn

    cdef int _leave(self, Turn turn) except -1:
        if self._waiting is not None and turn in self._waiting:
            self._waiting.remove(turn)
            if not self._waiting:
                self._waiting = None
        return 0

    cdef list _take_of(self, TurnCaller caller):
        # The turns of one caller that wait leave the queue.
        if self._waiting is None:
            return []
        taken = [turn for turn in self._waiting if (<Turn>turn).caller is caller]
        if taken:
            rest = [turn for turn in self._waiting if (<Turn>turn).caller is not caller]
            self._waiting = deque(rest) if rest else None
        return taken


# --- one turn, and who asked for it ---------------------------------------------------------------

cdef class TurnCaller:
    """Who asked for turns, and is answered. This class wants no answers.

    A subclass in Python defines ``reply(turn, payload)`` or ``fail(turn, error)``. A compiled one
    overrides the cdef methods, of which ``_keep`` and ``_forget`` tell about turns that do not end
    at once.
    """

    def __cinit__(self, *_, **__):
        self.uses = True

    def reply(self, turn, payload):
        """The handler has returned; ``payload`` is its reply in MessagePack."""

    def fail(self, turn, error):
        """The turn has ended with an error, perhaps before its handler was called."""

    cdef int _reply(self, Turn turn, bytes payload) except -1:
        self.reply(turn, payload)
        return 0

    cdef int _fail(self, Turn turn, error) except -1:
        self.fail(turn, error)
        return 0

    cdef int _keep(self, Turn turn) except -1:
        return 0

    cdef int _forget(self, Turn turn) except -1:
        return 0

    cdef int _hold(self, Turn turn) except -1:
        raise NotImplementedError    # only one that is full

    cdef Py_ssize_t _bytes_held(self) except? -1:
        # Bytes that the node holds for it.
        return self._waiting


@cython.final
@cython.freelist(256)
cdef class Turn:
    """One request, from its arrival until it is answered."""

    @property
    def type_name(self):
        return self.table.type_name

    @property
    def message_name(self):
        """The message's name; of a lifecycle hook, ``"(lifecycle)"``."""
        return "(lifecycle)" if self.method is None else self.method.name

    @property
    def is_hook(self):
        """Whether it is one of lifecycle hooks, and of no request."""
        return self.method is None

    @property
    def abandoned(self):
        """Whether the caller has given up."""
        return self._abandoned

    @property
    def running(self):
        """Whether its handler has begun and has not ended."""
        return not self.finished and self.mailbox is not None and self.mailbox.turn is self

    def wait_for(self, Mailbox mailbox not None):
        """Queue up for an object that is busy, or not ready yet."""
        self.dispatcher._keep(self)
        self.mailbox = mailbox
        mailbox._wait(self)

    def keep(self):
        """Let it wait for its answer, but for no object."""
        self.dispatcher._keep(self)

    def read_message(self):
        """Its message, decoded. This raises what the codec raises."""
        return self.method._decode(self._payload)

    def why_unreadable(self):
        """What to answer because its message does not decode; ``None`` if it does."""
        try:
            self.method._decode(self._payload)
        except BaseException as error:
            return self.dispatcher._payload_error(self, error)
        return None

    def reply(self, bytes payload not None):
        """Answer what needs no turn, unless that has happened; ``payload`` is MessagePack."""
        if not self.finished:
            self._end()
            self._close_span()
            self.caller._reply(self, payload)

    def refuse(self, error):
        """Answer with an error instead of waiting any longer."""
        self.mailbox._leave(self)
        self.fail(error)

    def nested_context(self, make):
        """What calls made during this turn carry: ``make(turn)``, made once."""
        if self._nested_context is None:
            self._nested_context = make(self)
        return self._nested_context

    def fail(self, error):
        """Answer with an error. Whatever goes wrong with that, nothing is raised."""
        if self.dispatcher._tracer is not None:
            self._note_failure(error)
            self._close_span()
        self._end()
        if self._abandoned:
            return
        self.dispatcher.failures += 1
        if isinstance(error, CallFailed) and self.dispatcher.lease_until <= self.dispatcher._now():
            # What a handler says is as little to be told without the lease as what it returns.
            self.dispatcher.fenced += 1
            error = self._lease_is_lost()
        try:
            self.caller._fail(self, error)
        except BaseException:
            self._fail_plainly()

    def open_span(self):
        """Have it traced from now on, if anybody traces."""
        if self.span is None and self.dispatcher._tracer is not None:
            self._open_span()

    cdef int _open_span(self) except -1:
        if self.context is not None and is_unsampled(self.context):
            self.span = self.dispatcher._unsampled
        else:
            self.span = self.dispatcher.runtime.begin_span(self)
        return 0

    @cython.nonecheck(False)
    cdef bint _is_sampled(self) noexcept:
        return self.span is not None and self.span is not self.dispatcher._unsampled

    cdef int _note_failure(self, error) except -1:
        # An error is the answer, perhaps before the turn has begun.
        if not self.finished:
            self.open_span()
        if self._is_sampled():
            self.span.failed(error)
        return 0

    @cython.nonecheck(False)
    cdef int _close_span(self) except -1:
        if self._is_sampled():
            self.span.end()
            self.span = self.dispatcher._unsampled
        return 0

    cdef int _fail_plainly(self) noexcept:
        # The last word about a call whose error could not be told. It depends on nothing that the
        # error holds; if it cannot be told either, the interpreter prints why.
        self.caller._fail(self, OutcomeUnknown(
            f"{self.table.type_name}/{self.id} has answered {self.message_name} with an error that "
            "cannot be told"
        ))
        return 0

    def cancel(self):
        """Stop it: a handler that runs is cancelled, one that waits is not started.

        The turn is answered as soon as its handler has ended.
        """
        if self._task is not None:
            self._task.cancel()
        elif not self.running:
            self._end()
            self._abandoned = True
            self._close_span()
            if self.mailbox is not None:
                self.mailbox._leave(self)

    def cut_short(self):
        """Cancel a handler that runs, because its object is to leave. The object lives on until its
        shutdown hooks have run.
        """
        if self._task is not None:
            self._is_cut_short = True
            self._task.cancel()

    def __call__(self, task):
        """The handler's task has ended."""
        cdef Mailbox mailbox = self.mailbox
        if mailbox is None or self.method is None:
            raise TypeError("no handler of this turn runs")
        self._task = None
        try:
            if task.cancelled():
                error = CancelledError("the handler was cancelled")
            else:
                error = task.exception()
            self.dispatcher._settle(self, task.result() if error is None else None, error)
        finally:
            self.dispatcher._pump(mailbox)

    cdef int _answer_cancelled(self, error) except -1:
        if self._abandoned:
            return 0
        if self._expired:
            self.fail(self._late_error())
        elif self.dispatcher.lease_until <= self.dispatcher._now():
            self.fail(self._lease_is_lost())
        elif self._is_cut_short:
            self.fail(OutcomeUnknown(
                f"{self.table.type_name}/{self.id} was shut down by force while it handled "
                f"{self.method.name}"
            ))
        else:
            self.dispatcher.runtime.answer_failure(self, error)
        return 0

    cdef int _give_up(self) except -1:
        # Nobody waits for the answer any more. A handler whose deadline has passed is cancelled
        # already, and may be cleaning up.
        self._abandoned = True
        if not self._expired:
            self.cancel()
        return 0

    cdef int _withdraw(self) except -1:
        # The caller gives up, and waits a moment longer to hear whether the turn has begun.
        if not self._abandoned:
            error = self._late_error() if self.running else self._expiry()
            if self.dispatcher._tracer is not None:
                self._note_failure(error)
            self.caller._fail(self, error)
        return self._give_up()

    cdef object _lease_is_lost(self):
        return OutcomeUnknown(
            f"the node lost its lease while {self.table.type_name}/{self.id} handled "
            f"{self.method.name}"
        )

    cdef object _late_error(self):
        return CallTimeout(
            f"{self.table.type_name}/{self.id} was still handling {self.method.name} at the "
            "deadline, and was cancelled"
        )

    cdef object _expiry(self):
        return Expired(
            f"{self.method.name} waited for {self.table.type_name}/{self.id} until its deadline, "
            "and was not started"
        )

    @cython.nonecheck(False)
    cdef int _drop_payload(self) except -1:
        cdef Py_ssize_t size
        # Of a turn in flight: it does not wait any more.
        if self._payload is not None and self.caller._is_peer:
            size = PyBytes_GET_SIZE(self._payload)
            self.caller._waiting -= size
            (<RemoteCaller>self.caller)._usage.held -= size
            self.dispatcher.budget.used -= size
        self._payload = None
        return 0

    @cython.nonecheck(False)
    cdef int _end(self) except -1:
        if not self.finished:
            self.finished = True
            if self._is_in_flight:
                self._drop_payload()
                del self.dispatcher._in_flight[self]
                self.caller._forget(self)
        return 0


hide(Turn)


# --- one connection -------------------------------------------------------------------------------

@cython.final
@cython.nonecheck(False)
cdef class RemoteCaller(TurnCaller):
    """The client at the other end of a connection."""

    cdef int _belong_to(self, ServerHalf connection) except -1:
        self.connection = connection
        self._usage = connection._usage
        self._is_peer = connection.is_remote
        self._turns = {}
        self._held = {}
        return 0

    cdef int _reply(self, Turn turn, bytes payload) except -1:
        cdef ServerHalf connection = self.connection
        if PyBytes_GET_SIZE(payload) + limits.RESPONSE_HEAD > connection.send_limit:
            turn.fail(ReplyTooLarge(
                f"the reply of {turn.table.type_name}/{turn.id} to {turn.method.name} takes "
                f"{len(payload)} bytes, the frame limit is {connection.send_limit}"
            ))
            return 0
        if (
            self._is_full
            or PyBytes_GET_SIZE(payload) > limits.LARGE_PAYLOAD
            or turn.dispatcher.budget._is_scarce()
        ):
            return self._reply_if_there_is_room(turn, payload)
        connection.writer.put_response(turn.request_id, payload)
        return connection._flush_soon()

    cdef int _reply_if_there_is_room(self, Turn turn, bytes payload) except -1:
        cdef ServerHalf connection = self.connection
        cdef Py_ssize_t size = PyBytes_GET_SIZE(payload)
        if size <= limits.SMALL_REPLY or connection.transport is None:
            connection.writer.put_response(turn.request_id, payload)
            return connection._flush_soon()
        connection.note_unsent(connection.unsent)
        if not self._has_room(turn.dispatcher.budget, size):
            turn.dispatcher._recount()
            if not self._has_room(turn.dispatcher.budget, size):
                connection.stall()
                return refuse(turn, dropped_error(turn, size))
        connection.writer.put_response(turn.request_id, payload)
        connection._flush()
        connection.note_unsent(connection.unsent)
        return 0

    cdef bint _has_room(self, Budget budget, Py_ssize_t size) except -1:
        # Whether an answer of this size may wait with what the client has not taken.
        cdef Py_ssize_t of_client = 0 if self.connection.is_node else self._usage.held
        if self.connection._unsent == 0 and budget._allows_first(of_client, size):
            return True
        return self._may_hold(budget, size)

    cdef bint _may_hold(self, Budget budget, Py_ssize_t more) except -1:
        # Whether so many bytes more may wait for this peer.
        if self.connection.is_node:
            return budget.allows_node(more)
        return budget.allows(self._bytes_held(), self._usage.held, more)

    cdef Py_ssize_t _bytes_held(self) except? -1:
        return self._waiting + self.connection._unsent

    cdef int _fail(self, Turn turn, error) except -1:
        self.connection.answer_error(turn.request_id, error)
        return 0

    cdef int _keep(self, Turn turn) except -1:
        self._turns[turn.request_id] = turn
        self._usage.calls += 1
        return 0

    cdef int _forget(self, Turn turn) except -1:
        del self._turns[turn.request_id]
        self._usage.calls -= 1
        self._held.pop(turn.request_id, None)
        return 0

    cdef int _hold(self, Turn turn) except -1:
        # The turn leaves its object to others. With it go the client's turns behind it, which
        # would be before it otherwise when it comes back.
        cdef Mailbox mailbox = turn.mailbox
        problem = turn.dispatcher._why_not_hold(turn)
        if problem is not None:
            return refuse(turn, problem)
        self._set_aside(turn)
        if mailbox is not None:
            for other in mailbox._take_of(self):
                self._set_aside(<Turn>other)
        return 0

    cdef int _set_aside(self, Turn turn) except -1:
        turn.mailbox = None
        turn.dispatcher._keep(turn)
        self._held[turn.request_id] = turn
        return 0

    cdef int _go_on(self) except -1:
        # Admit what was held, in the order in which it came.
        cdef Turn turn
        self._is_full = False
        for request_id in sorted(self._held):
            if self._is_full:
                break
            turn = <Turn>self._held.pop(request_id, None)
            if turn is not None:
                turn.dispatcher._admit(turn)
        return 0


hide(RemoteCaller)


cdef class ServerHalf(Connection):
    """The server's half of one connection, without the socket: requests become turns, and their
    answers leave in one write for each read.

    Besides what :class:`Connection` asks of it, the owner answers what is rare:
    ``answer_error(id, error)`` writes an error, ``unsent`` counts the bytes that the client has not
    taken, ``cut_off(reason)`` ends the connection. It reads no more after ``stop_reading()`` until
    ``go_on_reading()``, and while ``may_read`` is false: a large frame has begun for which there is
    no room, or others have their turn. It calls ``hold()`` when the client does not take its
    answers, and ``take_rest()`` when it does so again; meanwhile ``watch()`` is called with each
    sweep. The core calls ``stall()`` when there is no room for answers: then the owner calls
    ``hold()`` until the client has taken all.
    """

    def __init__(
        self,
        Dispatcher dispatcher not None,
        Py_ssize_t frame_limit=limits.DEFAULT_FRAME_LIMIT,
    ):
        Connection.__init__(self, frame_limit, dispatcher._receive_buffer)
        self.dispatcher = dispatcher
        self._caller = None
        self.accepted = False
        self.rights = self.authorize = self.sift_context = None
        self.is_node = True
        self._usage = Usage()
        self._table = None
        self._method = None
        self._reading = False
        self._read_until = INFINITY
        self._late = 0
        self.is_remote = False

    def buffer_updated(self, Py_ssize_t nbytes):
        """Handle all whole frames that have arrived."""
        cdef bint is_last
        self.is_remote = True
        self._note_arrived(nbytes)
        is_last = self.reader._end < self.reader._capacity    # no more has arrived
        self._read()
        if self._late != 0 and is_last and self.may_read:
            self._late = 0

    @property
    def usage(self):
        """What its client uses over all its connections; of a node, it does not matter."""
        return self._usage

    @usage.setter
    def usage(self, Usage usage not None):
        if self.dispatcher._reader is self._usage:
            self.dispatcher._reader = usage
        self._usage = usage

    @property
    def may_read(self):
        """Whether the owner is to read what comes."""
        return not (self.held or self._is_put_off or self.is_short_of_room)

    def hold(self):
        """Take no more requests of what has arrived, and start no more turns of this client."""
        if not self.held:
            self._held_at = self.dispatcher._now()
        self.held = True
        if self._caller is not None:
            self._caller._is_full = True

    def note_unsent(self, Py_ssize_t size):
        """Count so many bytes as what the client does not take."""
        self.dispatcher.budget.used += size - self._unsent
        self._usage.held += size - self._unsent
        self._unsent = size
        self._counted_at = self.written

    def take_rest(self):
        """Go on: start what was held, then take the requests that have arrived meanwhile."""
        self.held = False
        self._late = max(self._late, self.dispatcher._now() - self._held_at)
        if self._caller is not None:
            self._caller._go_on()
        if self.transport is not None and not self.held:
            self._read()

    def abandon(self):
        """The peer is gone: nobody waits for the turns any more, so those that run are cancelled
        and those that wait never start.
        """
        self._end_frame()
        # The caller holds this connection, and the turns that are left hold the caller.
        caller, self._caller = self._caller, None
        if caller is not None:
            for turn in list((<RemoteCaller>caller)._turns.values()):
                (<Turn>turn)._give_up()

    cdef int _read(self) except -1:
        if not self.is_remote:
            return self._read_frames()
        if self._may_read():
            self._read_frames()
            self.dispatcher._note_slice(self)
        return 0

    cdef bint _may_read(self) except -1:
        # Whether it is the turn of its client.
        cdef Dispatcher dispatcher = self.dispatcher
        cdef double now
        if self._is_put_off:
            return False
        if self.is_node and self.accepted:
            self._read_until = INFINITY
            return True
        now = dispatcher._latest = dispatcher._now()
        if self._usage is not dispatcher._reader:
            if dispatcher._reader is not None:
                dispatcher._switched_at = now
            dispatcher._reader = self._usage
        if self._usage._put_off or (
            dispatcher._is_contended(now) and dispatcher._is_behind(self._usage)
        ):
            self._put_off()
            return False
        self._read_until = now + dispatcher._slice_of(self._usage, now)
        return True

    cdef int _put_off(self) except -1:
        # Others have their turn before the rest.
        self._is_put_off = True
        self._held_at = self.dispatcher._latest
        self._usage._put_off += 1
        self.stop_reading()
        return self.dispatcher._read_later(self)

    cdef int _read_on(self, double until) except -1:
        # Its turn has come.
        cdef Dispatcher dispatcher = self.dispatcher
        cdef double now = dispatcher._now()
        self._is_put_off = False
        self._usage._put_off -= 1
        if self.transport is None:
            return 0
        dispatcher._reader, dispatcher._latest = self._usage, now
        self._late = max(self._late, now - self._held_at)
        self._read_until = until
        self._read_frames()
        self._usage._read_at, self._usage._credit = dispatcher._latest, 0
        if self.may_read and self.transport is not None:
            self.go_on_reading()
        return 0

    cdef int _read_frames(self) except -1:
        self._reading = True
        self._frames = 0
        self.dispatcher._is_new_read = True
        try:
            Connection._read(self)
        finally:
            self._reading = False
            if not self.dispatcher._is_new_read:    # it has brought requests
                self.dispatcher._busy_until = self.dispatcher._now()
            if self._awaits_frame or self.reader._start < self.reader._end:
                self._note_frame()
            self._flush()
        return 0

    cdef int _note_frame(self) except -1:
        # A frame has begun that is not whole, or one that had begun is whole now.
        cdef Py_ssize_t size
        if self._awaits_frame and self._frames:
            self._end_frame()
        if self.reader._start == self.reader._end or not self.is_remote:
            return 0
        if self.held or self._is_put_off:
            return 0    # what lies there may be whole
        self._awaits_frame = True
        size = self.reader._announced()
        if size <= limits.LARGE_FRAME or size > self.reader.limit or self._reserved:
            return 0
        if self._has_room_for(size):
            return self._reserve(size)
        if not self.is_short_of_room:
            self.is_short_of_room = True
            self._held_at = self.dispatcher._now()
            self.stop_reading()
        return 0

    cdef bint _has_room_for(self, Py_ssize_t size) noexcept:
        # A client may have as much as stays free for others. A frame for which there is room is
        # read to its end, so the others wait and none fails.
        cdef Py_ssize_t free = self.dispatcher.arriving_limit - self.dispatcher.arriving - size
        return self.is_node or self._usage.arriving + size <= free

    cdef int _reserve(self, Py_ssize_t size) except -1:
        self._reserved += size
        self._usage.arriving += size
        self.dispatcher.arriving += size
        return 0

    cdef int _end_frame(self) except -1:
        # The frame that had begun is whole, or will never be.
        self._reserve(-self._reserved)
        self._awaits_frame = self.is_short_of_room = False
        self._frame_age = 0
        return 0

    cdef int _look_at_frame(self, double passed) except -1:
        # Read a frame if there is room for it now, and cut off a peer that does not send the rest.
        cdef double patience = FRAME_PATIENCE, rate = LEAST_RATE
        if self.is_short_of_room:
            if self._has_room_for(self.reader._announced()):
                self._reserve(self.reader._announced())
                self.is_short_of_room = False
                self._late = max(self._late, self.dispatcher._now() - self._held_at)
                self.go_on_reading()
            return 0
        if not self.may_read:
            return 0
        if self.dispatcher.arriving > self.dispatcher.arriving_limit // 2:
            patience, rate = HASTY_PATIENCE, HASTY_RATE
        self._frame_age += passed
        if self._frame_age > patience + self.reader.buffered / rate:
            self.cut_off(
                f"it has sent {self.reader.buffered} bytes of a frame of "
                f"{self.reader._announced()} in {self._frame_age:.3g} seconds"
            )
            self._end_frame()
        return 0

    @cython.nonecheck(False)
    cdef int _frame(self, Frame* frame) except -1:
        self._take(frame)
        self._frames += 1
        if self._frames % limits.FLUSH_EVERY == 0:
            self._flush()
            if self._read_until != INFINITY:
                self.dispatcher._latest = self.dispatcher._now()
        if self.dispatcher._latest > self._read_until and self.reader._start != self.reader._end:
            return self._put_off()
        return 0

    @cython.nonecheck(False)
    @cython.final
    cdef int _take(self, Frame* frame) except -1:
        if frame.kind == Kind.REQUEST and self.accepted:
            return self._request(frame)
        if frame.kind == Kind.CANCEL and self.accepted:
            return self._cancel(frame.id)
        return self._leave_to_owner(frame)

    @cython.nonecheck(False)
    cdef int _request(self, Frame* frame) except -1:
        cdef Dispatcher dispatcher = self.dispatcher
        cdef Request request
        cdef Turn turn
        cdef double now
        take_request(frame, &request)
        if self._caller is None:
            self._caller = RemoteCaller.__new__(RemoteCaller)
            self._caller._belong_to(self)
        if self._caller._turns and request.id in self._caller._turns:
            raise ProtocolError(f"request id {request.id} is in use by a call that has not ended")
        if request.id > self.last_request:
            self.last_request = request.id
        dispatcher.calls += 1
        if not self._names_the_same(&request):
            try:
                self._find(&request)
            except (BadIdentity, Forbidden, UnknownType, UnknownMessage, Unavailable) as error:
                dispatcher.failures += 1
                self.answer_error(request.id, error)
                return 0
        turn = Turn.__new__(Turn)
        turn.dispatcher = dispatcher
        turn.caller = self._caller
        turn.request_id = request.id
        turn.table = self._table
        turn.id = text(&request.object_id)
        turn.method = self._method
        if request.context.data is not NULL:
            turn.context = PyBytes_FromStringAndSize(request.context.data, request.context.size)
        turn._payload = bytes_of(&frame.rest)
        now = turn.arrived = dispatcher._latest = dispatcher._now()
        if (
            turn.context is not None
            and self.sift_context is not None
            and turn.context != ONLY_UNSAMPLED
        ):
            turn.context = self.sift_context(turn.context)
        if self.authorize is not None and not self.authorize(turn):
            return refuse(turn, Forbidden(
                f"{turn.table.type_name}/{turn.id} is not for you: the server's authorize "
                f"does not allow {turn.method.name}"
            ))
        turn.deadline = now + min(
            <double>request.timeout / 1000.0 if request.timeout else limits.DEFAULT_TIMEOUT,
            dispatcher.max_timeout,
        )
        if self.is_remote:
            self._note_delay(dispatcher._loop_time(now))
        if self._late != 0:
            turn.deadline -= self._late
            if now > turn.deadline:
                return dispatcher._expire(turn)
        if dispatcher._has_time(now, self._usage if self.is_remote else self._caller):
            return dispatcher._admit(turn)
        if self.is_remote:
            return dispatcher._put_off(turn, now)
        return dispatcher._line_up(turn, INFINITY)

    @cython.final
    cdef int _note_delay(self, double now) except -1:
        # If the loop stood still, what is read now may have waited since then.
        if now - self.dispatcher._swept_at > STALL:
            self.dispatcher._note_stall(now)
        if self.dispatcher._stall > self._late:
            self._late = self.dispatcher._stall
        return 0

    @cython.nonecheck(False)
    @cython.final
    cdef bint _names_the_same(self, const Request* request) except -1:
        # Most requests of a connection name the type and the message that the one before named.
        return (
            self._method is not None
            and is_same(self._table.type_name, &request.type_name)
            and is_same(self._method.name, &request.message_name)
            and 1 <= request.object_id.size <= limits.MAX_ID
        )

    cdef int _find(self, const Request* request) except -1:
        # Find the table and the method. Only an error lets Python code run here, and whether the
        # request is well-formed is known by then.
        cdef TypeTable table
        cdef str type_name = text(&request.type_name)
        cdef str message_name = text(&request.message_name)
        text(&request.object_id)
        check_size("a type name", &request.type_name, limits.MAX_TYPE_NAME)
        check_size("an object id", &request.object_id, limits.MAX_ID)
        check_size("a message's name", &request.message_name, limits.MAX_TYPE_NAME)
        if self.rights is not None and not self.rights.allows(type_name, message_name):
            raise Forbidden(self.rights.why_not(type_name, message_name))
        table = self.dispatcher._type_table(type_name)
        self._method = self.dispatcher._method(table, message_name)
        self._table = table
        return 0

    cdef int _cancel(self, uint64_t request_id) except -1:
        turn = None if self._caller is None else self._caller._turns.get(request_id)
        if turn is not None:
            (<Turn>turn)._withdraw()
        return 0

    cdef int _flush(self) except -1:
        Connection._flush(self)
        if self.written - self._counted_at > limits.UNCOUNTED and self.transport is not None:
            self.note_unsent(self.unsent)
        return 0

    @cython.nonecheck(False)
    cdef int _flush_soon(self) except -1:
        # Answers leave at the end of this read, or of this turn of the loop; or at once if they are
        # so large that the transport has to say whether the client takes them.
        if self.writer._count() > limits.HIGH_WATER:
            return self._flush()
        if not self._reading and not self._flush_is_due:
            self._flush_is_due = True
            self.dispatcher._flush_soon(self)
        return 0


cdef inline bint is_unsampled(bytes context) noexcept:
    cdef Py_ssize_t size = PyBytes_GET_SIZE(UNSAMPLED)
    return (
        PyBytes_GET_SIZE(context) > size
        and memcmp(PyBytes_AS_STRING(context) + 1, PyBytes_AS_STRING(UNSAMPLED), size) == 0
    )


cdef inline bint has_values(bytes context) noexcept:
    # Whether a context may hold values, as far as its beginning tells.
    cdef Py_ssize_t size = PyBytes_GET_SIZE(CHAIN_ONLY)
    if PyBytes_GET_SIZE(context) == PyBytes_GET_SIZE(ONLY_UNSAMPLED) and is_unsampled(context):
        return False
    return (
        PyBytes_GET_SIZE(context) < size
        or memcmp(PyBytes_AS_STRING(context), PyBytes_AS_STRING(CHAIN_ONLY), size) != 0
    )


cdef inline str text(const Text* name):
    try:
        return PyUnicode_DecodeUTF8(name.data, name.size, NULL)
    except UnicodeDecodeError as error:
        raise ProtocolError(f"a name in a request is not valid UTF-8: {error}") from error


cdef inline bint is_same(str known, const Text* name) except -1:
    # To compare bytes is cheaper than to make and hash a string.
    cdef Py_ssize_t size
    cdef const char* data = PyUnicode_AsUTF8AndSize(known, &size)
    return size == name.size and memcmp(data, name.data, size) == 0


cdef int check_size(str what, const Text* name, Py_ssize_t limit) except -1:
    if name.size == 0 or name.size > limit:
        raise BadIdentity(f"{what} has 1 to {limit} bytes, this one has {name.size}")
    return 0


# --- one node -------------------------------------------------------------------------------------

cdef int refuse(Turn turn, error) except -1:
    turn.fail(error)
    turn.dispatcher._latest = turn.dispatcher._now()
    return 0


cdef Usage group_of(Turn turn):
    # With whom its caller shares a turn in the backlog: the other connections of a client.
    return (<RemoteCaller>turn.caller)._usage if turn.caller._is_peer else None


cdef object dropped_error(Turn turn, size):
    # One that lets the client ask again if a repetition does no harm.
    return OutcomeUnknown(
        f"{turn.table.type_name}/{turn.id} has handled {turn.method.name}, and its reply of "
        f"{size} bytes was dropped: the client does not take its answers, and "
        f"{turn.caller._bytes_held()} bytes wait for it already "
        f"(held_limit: {turn.dispatcher.budget.limit} for all clients)"
    )


cdef object busy_error(double wait):
    # Who comes again before what waits now is done is refused once more.
    return Overloaded(
        f"the node is busy: the call would have to wait for about {wait:.2g} seconds",
        [max(wait, MOST_WAIT)],
    )


@cython.final
@cython.nonecheck(False)
cdef class Dispatcher:
    """The dispatch table of one node, and the rules by which turns are taken.

    ``runtime`` is asked in every slow case: ``activate(turn)``, also with what takes no turn,
    ``undecodable(turn, error)``, ``answer_failure(turn, error)``, ``encode_reply(turn, value)``,
    ``unencodable(value, error)``, ``note_waiting(turn)``, ``deactivate(mailbox)``,
    ``read_values(context)`` if values travel with calls, ``begin_span(turn)`` if somebody traces,
    ``unknown_type(name)``, ``unknown_message(table, name)``, and before that
    ``find_method(table, name)``, which may have a :class:`Method` that passes the message on, or
    ``None``; it may raise ``Unavailable``. ``clock`` replaces the system's, in seconds.
    """

    def __cinit__(
        self,
        runtime,
        tables,
        *,
        clock=None,
        Py_ssize_t waiting_limit=limits.WAITING_LIMIT,
        Py_ssize_t in_flight_limit=limits.IN_FLIGHT_LIMIT,
        Py_ssize_t held_limit=limits.HELD_LIMIT,
    ):
        self.runtime = runtime
        self.tables = {(<TypeTable?>table).type_name: table for table in tables}
        self._loop = None
        self._context = outside_of_turns()
        self.app_data = None
        self.lease_until = 0.0
        self.waiting_limit = waiting_limit
        self.in_flight_limit = in_flight_limit
        self.max_timeout = limits.MAX_TIMEOUT
        self.connections = {}
        self._in_flight = {}
        self._paused = {}
        self._clock = clock
        self._receive_buffer = ReceiveBuffer()
        self.loop_budget = 0.005
        self._backlog = Backlog()
        self._unread = Backlog()
        self._switched_at = self._prompt_at = self._others_prompt_at = -INFINITY
        self._caught_up_at = self._earned = 0
        self.budget = Budget(held_limit)
        self.arriving_limit = 2 * held_limit
        self._swept_at = INFINITY
        self._looked_at = INFINITY
        self._stall = 0
        self._last_turn = int.from_bytes(os.urandom(8), "big") >> 1
        self._unflushed = []
        self._recounted_at = -INFINITY

    @property
    def loop(self):
        """The event loop on which handlers run."""
        return self._loop

    @loop.setter
    def loop(self, loop):
        cdef TypeTable table
        cdef Method method
        self._loop = loop
        self._context = outside_of_turns()
        if carried_values in self._context:
            self._context.run(carried_values.set, None)    # turns have those of their calls
        for found in self.tables.values():
            table = <TypeTable?>found
            for found_method in table._methods.values():
                method = <Method>found_method
                name = f"{table.type_name}.{method.name}"
                method._task_options = options_of_task(loop, name)

    @property
    def tracer(self):
        """What makes the spans of turns, in a program that traces: it has ``attach(context)``, and
        ``unsampled``, which stands for a span that is not sampled. Else ``None``.
        """
        return self._tracer

    @tracer.setter
    def tracer(self, tracer):
        self._tracer = tracer
        if tracer is not None:
            self._attach, self._unsampled = tracer.attach, tracer.unsampled
            self._context.run(tracer.attach, tracer.nothing)    # turns have what came with them
            self._unsampled_context = PyContext_Copy(self._context)
            self._unsampled_context.run(tracer.attach, tracer.unsampled.context)

    def now(self):
        """Seconds on the clock of leases and deadlines."""
        return self._now()

    @property
    def admits(self):
        """Whether turns may start now."""
        return self._now() < self.lease_until

    @property
    def in_flight(self):
        """How many requests are waiting or running."""
        return len(self._in_flight)

    @property
    def live(self):
        """How many objects are in memory."""
        return sum(len((<TypeTable?>table).mailboxes) for table in self.tables.values())

    def mailboxes(self):
        """All objects in memory, a list."""
        return [
            mailbox
            for table in self.tables.values()
            for mailbox in (<TypeTable?>table).mailboxes.values()
        ]

    def admit(
        self,
        TurnCaller caller not None,
        str type_name not None,
        str id not None,
        str message_name not None,
        bytes payload not None,
        *,
        bytes context=None,
        double timeout=limits.DEFAULT_TIMEOUT,
    ):
        """Take a request that came over no connection; ``caller`` is answered. ``payload`` is the
        message in MessagePack, ``timeout`` is in seconds. Returns the turn.

        :raises UnknownType: this node does not host the type.
        :raises UnknownMessage: the type does not handle the message.
        """
        cdef Turn turn = Turn.__new__(Turn)
        turn.dispatcher = self
        turn.caller = caller
        turn.table = self._type_table(type_name)
        turn.id = id
        turn.method = self._method(turn.table, message_name)
        turn.context = context
        turn._payload = payload
        turn.arrived = self._now()
        turn.deadline = turn.arrived + timeout
        self.calls += 1
        self._admit(turn)
        return turn

    def new_context(self):
        """A context of its own for what belongs to no turn: a copy of that in which the node was
        started.
        """
        return PyContext_Copy(self._context)

    def start_task(self, coroutine, str name not None, context not None):
        """Have a coroutine make its first step at once, in ``context``, and return its task, which
        may have ended.
        """
        return start_in(coroutine, self._loop, name, context)

    def set_lease(self, double until):
        """Move the moment until which turns may start; what waited for it goes on."""
        self.lease_until = until
        if self._paused and self._now() < until:
            paused, self._paused = self._paused, {}
            for mailbox in paused:
                self._pump(mailbox)

    def sweep(self):
        """Cancel the handlers and answer the turns whose deadline has passed; have idle connections
        give memory back.
        """
        cdef Turn turn
        cdef double now = self._now()
        # What has arrived while the loop stood still is not read yet.
        cdef double passed = min(max(now - self._looked_at, 0.0), STALL)
        self._looked_at = now
        self._swept_at = self._note_stall(self._loop_time(now))
        self.budget.leaving = 0
        for connection in self.connections:
            connection.relax()
            if (<ServerHalf?>connection)._awaits_frame:
                (<ServerHalf>connection)._look_at_frame(passed)
            if (<ServerHalf>connection)._unsent:
                connection.watch()
        for turn in list(self._in_flight):
            if turn.deadline < now and not turn._expired and not turn._abandoned:
                turn._expired = True
                if turn.running:
                    turn.cancel()
                else:
                    self._expire(turn)

    def pump(self, Mailbox mailbox not None):
        """Start what waits for an object, if it is free."""
        self._pump(mailbox)

    def cancel_running(self):
        """Cancel every handler that waits for something. Returns their tasks."""
        cdef Mailbox mailbox
        tasks = []
        for mailbox in self.mailboxes():
            if mailbox.turn is not None and mailbox.turn._task is not None:
                mailbox.turn._task.cancel()
                tasks.append(mailbox.turn._task)
        return tasks

    def flush(self):
        """Write the answers that became ready outside of a read."""
        unflushed, self._unflushed = self._unflushed, []
        for connection in unflushed:
            try:
                (<ServerHalf>connection)._flush()
            except Exception as error:
                # What was to be sent may be lost, and the others wait for theirs.
                connection.break_off(error)

    cdef double _loop_time(self, double now) noexcept:
        # A clock that was handed in says nothing of how long the loop stood still, and real time
        # nothing of what happens by that clock: then the loop never stood still.
        return now if self._clock is None else -INFINITY

    cdef double _note_stall(self, double now) except? -1:
        # Returns `now`, of the loop's time.
        if now - self._swept_at > STALL:
            self._stall = now - self._swept_at
            self._swept_at = now
            # Until the loop has looked at each socket once, whatever it looks at first.
            self._loop.call_soon(self._loop.call_soon, self.end_stall)
        return now

    def end_stall(self):
        """What arrives from now on has not waited for the loop."""
        self._stall = 0

    cdef double _now(self) except? -1:
        return system_clock() if self._clock is None else <double>self._clock()

    cdef TypeTable _type_table(self, str type_name):
        found = self.tables.get(type_name)
        if found is None:
            raise UnknownType(self.runtime.unknown_type(type_name))
        return <TypeTable?>found

    cdef Method _method(self, TypeTable table, str name):
        found = table._methods.get(name)
        if found is None:
            found = self.runtime.find_method(table, name)
        if found is None:
            raise UnknownMessage(self.runtime.unknown_message(table, name))
        return <Method?>found

    cdef int _flush_soon(self, ServerHalf connection) except -1:
        if not self._unflushed:
            self._loop.call_soon(self.flush)
        self._unflushed.append(connection)
        return 0

    cdef int _keep(self, Turn turn) except -1:
        # The turn does not end at once.
        if turn.caller is None:
            raise TypeError("a turn of hooks waits for nothing")
        if not turn._is_in_flight:
            turn._is_in_flight = True
            self._in_flight[turn] = None
            if turn._payload is not None and turn.caller._is_peer:
                turn.caller._waiting += PyBytes_GET_SIZE(turn._payload)
                (<RemoteCaller>turn.caller)._usage.held += PyBytes_GET_SIZE(turn._payload)
                self.budget.used += PyBytes_GET_SIZE(turn._payload)
            turn.caller._keep(turn)
        return 0

    # --- requests that wait for the loop ----------------------------------------------------------

    cdef bint _has_time(self, double now, owner) except -1:
        # Whether a request may run as it is read: none of its owner, a client or this process,
        # waits, and the loop was not kept from everything else for too long.
        if self._backlog.size and self._backlog.has(owner):
            return False
        if self._is_new_read:
            self._is_new_read = False
            self._note_gap(now)
        return now - self._busy_since < self.loop_budget

    cdef void _note_gap(self, double now) noexcept:
        if now - self._busy_until > LOOP_GAP:
            self._begin_to_serve(now)

    cdef bint _is_contended(self, double now) noexcept:
        return now - self._switched_at < CONTENTION or self._unread.size > 1

    cdef double _slice_of(self, Usage usage, double now) noexcept:
        # How long one that keeps up may keep the loop now.
        usage._credit = min(SLICE, usage._credit + SHARE * (now - usage._read_at))
        usage._read_at = now
        return min(usage._credit, self.loop_budget) if self._is_contended(now) else self.loop_budget

    cdef int _note_slice(self, ServerHalf connection) except -1:
        # It was read from.
        cdef Usage usage = connection._usage
        cdef bint has_run = not self._is_new_read
        cdef double now = self._busy_until if has_run else self._now()
        usage._credit = max(0.0, usage._credit - (now - usage._read_at))
        if has_run and not connection._is_put_off and not self._is_behind(usage):
            if usage is not self._prompt:
                self._others_prompt_at = self._prompt_at
                self._prompt = usage
            self._prompt_at = now
        return 0

    cdef bint _is_behind(self, Usage usage) except -1:
        return usage._put_off != 0 or (self._backlog.size != 0 and self._backlog.has(usage))

    cdef double _slice_to_catch_up(self, double now) except? -1:
        # How long those that are behind may keep the loop now; 0: others come first.
        cdef double prompt_at = self._prompt_at
        if self._prompt is not None and self._is_behind(self._prompt):
            prompt_at = self._others_prompt_at
        if now - prompt_at >= CONTENTION:
            return min(SLICE, self.loop_budget) if self._is_contended(now) else self.loop_budget
        self._earned += CATCH_UP * (now - max(self._caught_up_at, self._busy_since))
        if prompt_at <= self._caught_up_at:     # the others needed nothing since
            self._earned = max(self._earned, SHORT_SLICE)
        return min(self._earned, self.loop_budget) if self._earned >= SHORT_SLICE else 0

    cdef int _catch_up_soon(self) except -1:
        if not self._is_catching_up:
            self._is_catching_up = True
            self._caught_up_at = self._now()
            self._earned = 0
            self._loop.call_soon(self.catch_up)
        return 0

    def catch_up(self):
        """Let those that are behind go on, if it is their turn: read on from the clients that have
        sent more than there was time for, and run requests that wait.
        """
        cdef double now = self._now()
        cdef double slice = self._slice_to_catch_up(now)
        cdef double part = slice / 2 if self._unread.size and self._backlog.size else slice
        self._latest = now
        self._begin_to_serve(now)
        try:
            if slice > 0:
                self._read_on(now + part)
                self._serve_backlog(self._latest + part)
                self.flush()
        finally:
            self._busy_until = self._caught_up_at = self._now()
            if slice > 0:
                self._earned = min(slice - (self._caught_up_at - now), 0)
            self._is_catching_up = self._unread.size != 0 or self._backlog.size != 0
            if self._is_catching_up:
                self._loop.call_soon(self.catch_up)

    cdef void _begin_to_serve(self, double now) noexcept:
        self._busy_since = now
        self._ran = 0

    cdef int _read_on(self, double until) except -1:
        while self._unread.size and self._latest < until:
            (<ServerHalf>self._unread.take())._read_on(until)
        return 0

    cdef int _serve_backlog(self, double until) except -1:
        cdef double now = self._latest
        self._begin_to_serve(now)
        try:
            while self._backlog.size and now < until:
                self._serve(self._backlog.take(), now)
                now = self._now()
        finally:
            self._note_cost(now)
        return 0

    cdef int _read_later(self, ServerHalf connection) except -1:
        self._unread.put(connection, connection, connection._usage)
        return self._catch_up_soon()

    cdef int _put_off(self, Turn turn, double now) except -1:
        # The request waits until the loop has served everything else, or is refused because that
        # would take too long.
        cdef double wait, left = turn.deadline - now
        if self._backlog.size == 0:
            self._note_cost(now)
        wait = self._backlog.turns_until(turn.caller, group_of(turn)) * self._cost
        if wait > MOST_WAIT or wait > left:
            return refuse(turn, busy_error(wait))
        return self._line_up(turn, now)

    cdef int _line_up(self, Turn turn, double since) except -1:
        # The objects of this node are patient: their calls would wait here in any case, and how
        # many can is the business of the node's own client.
        problem = self._why_not_keep(turn)
        if problem is not None:
            return refuse(turn, problem)
        problem = self._why_not_hold(turn)
        if problem is not None:
            return refuse(turn, problem)
        turn._since = since
        self._backlog.put(turn.caller, turn, group_of(turn))
        self._keep(turn)
        return self._catch_up_soon()

    cdef int _put_off_rest(self, Mailbox mailbox) except -1:
        # The turns that wait for an object go on when the loop has served everything else.
        mailbox._is_put_off = True
        self._backlog.put(mailbox, mailbox)
        return self._catch_up_soon()

    cdef int _serve(self, waiting, double now) except -1:
        cdef Turn turn
        if isinstance(waiting, Mailbox):
            (<Mailbox>waiting)._is_put_off = False
            return self._pump(<Mailbox>waiting)
        turn = <Turn>waiting
        if turn.finished:
            return 0    # its caller has given up
        if now - turn._since > LONGEST_WAIT:
            return refuse(turn, busy_error(self._backlog.size * self._cost))
        return self._admit(turn)

    cdef int _note_cost(self, double now) except -1:
        # How long a request keeps the loop, about.
        if self._ran:
            cost = (now - self._busy_since) / self._ran
            self._cost = cost if self._cost == 0 else (self._cost + cost) / 2
        return 0

    cdef object _why_not_keep(self, Turn turn):
        # Why there is no place for one more call, or None. The shares of clients are those of the
        # Budget: one that is alone has nearly all, many that take all they can get have equal
        # shares, and there is a place for whoever comes next.
        cdef RemoteCaller caller
        cdef Py_ssize_t own, free = self.in_flight_limit - len(self._in_flight)
        if free * 2 > self.in_flight_limit or turn._is_in_flight:
            return None
        if free <= 0:
            return Overloaded(
                f"{self.in_flight_limit} calls are waiting or running on this node already"
                " (in_flight_limit)"
            )
        if not turn.caller._is_peer or (<RemoteCaller>turn.caller).connection.is_node:
            return None
        caller = <RemoteCaller>turn.caller
        own = len(caller._turns)
        free -= self.in_flight_limit - for_clients(self.in_flight_limit)
        if room(own, caller._usage.calls, free) > 0:
            return None
        return caller._usage.refuse(
            "in_flight_limit",
            f"{caller._usage.calls} calls of this client are waiting or running on this node, {own}"
            f" of them over this connection, and {max(free, 0)} places are left for all clients"
            f" (in_flight_limit: {self.in_flight_limit}): have fewer under way, or raise the limit",
        )

    cdef int _recount(self) except -1:
        # Clients may have taken something since their unsent bytes were counted.
        cdef double now = self._now()
        if now - self._recounted_at < RECOUNT:
            return 0
        self._recounted_at = now
        for connection in self.connections:
            if (<ServerHalf?>connection)._unsent:
                connection.note_unsent(connection.unsent)
        return 0

    cdef object _why_not_hold(self, Turn turn):
        # Why a request cannot wait, or None.
        cdef RemoteCaller caller
        if turn._is_in_flight or not turn.caller._is_peer:
            return None
        caller = <RemoteCaller>turn.caller
        if caller._may_hold(self.budget, PyBytes_GET_SIZE(turn._payload)):
            return None
        return caller._usage.refuse(
            "held_limit",
            f"{self.budget.used} bytes wait on this node already, {caller._usage.held} of them for "
            f"this client: the message of {len(turn._payload)} bytes would have to wait with them "
            f"(held_limit: {self.budget.limit}): send less at a time, or raise the limit",
        )

    # --- a turn, step by step ---------------------------------------------------------------------

    cdef int _admit(self, Turn turn) except -1:
        # A request has arrived whole: start it, queue it, or have its object activated.
        cdef Mailbox mailbox = turn.table.mailboxes.get(turn.id)
        if turn.caller._is_full:
            return turn.caller._hold(turn)
        problem = self._why_not_keep(turn)
        if problem is not None:
            return refuse(turn, problem)
        if mailbox is None or not turn.method.takes_turn:
            problem = self._why_not_hold(turn)
            if problem is not None:
                return refuse(turn, problem)
            self.runtime.activate(turn)
            return 0
        turn.mailbox = mailbox
        if mailbox._is_free():
            self._start(turn)
            if turn.finished and mailbox._waiting is not None:
                return self._pump(mailbox)    # it has sent its own object something
            return 0
        if mailbox._waiting is not None and len(mailbox._waiting) >= self.waiting_limit:
            return refuse(turn, Overloaded(
                f"{self.waiting_limit} calls wait for {turn.table.type_name}/{turn.id} already"
            ))
        problem = self._why_not_hold(turn)
        if problem is not None:
            return refuse(turn, problem)
        mailbox._wait(turn)
        self._keep(turn)
        if turn.context is not None and mailbox.turn is not None:
            self.runtime.note_waiting(turn)
        return 0

    cdef int _start(self, Turn turn) except -1:
        # The object is free: give the turn to this request. The turn has ended on return, or its
        # task is under way. Nothing that the code of a user raises leaves this method: what waits
        # behind the turn would not be started.
        cdef double now = self._now()
        if now >= self.lease_until:
            return self._pause(turn)
        if turn.caller._is_full:
            return turn.caller._hold(turn)
        if now > turn.deadline:
            return self._expire(turn)
        if self._tracer is not None:
            self._observe(turn, now)
        try:
            message = turn.method._decode(turn._payload)
            if carries_values and turn.context is not None and has_values(turn.context):
                turn.values = self.runtime.read_values(turn.context)
        except BaseException as error:
            return self._refuse_payload(turn, error)
        self._begin(turn, now)
        try:
            result = self._invoke(turn, message)
        except BaseException as error:
            return self._settle(turn, None, error)
        return 0 if result is UNDER_WAY else self._settle(turn, result, None)

    cdef int _observe(self, Turn turn, double now) except -1:
        # A turn begins while somebody traces.
        if turn.span is None:
            turn._open_span()
        if turn._is_sampled():
            turn.span.started(now - turn.arrived)
        return 0

    cdef object _context_of(self, Turn turn):
        # That of its handler. Nothing that a handler sets is there for the next one, whoever asked
        # for this turn.
        if turn.span is None or turn.span is not self._unsampled:
            return PyContext_Copy(self._context)
        return PyContext_Copy(self._unsampled_context)

    cdef int _enter_span(self, Turn turn) except -1:
        # The handler's code finds the span of its turn.
        turn.span.decoded()
        self._attach(turn.span.context)
        return 0

    cdef int _refuse_payload(self, Turn turn, error) except -1:
        return refuse(turn, self._payload_error(turn, error))

    cdef object _payload_error(self, Turn turn, error):
        try:
            return self.runtime.undecodable(turn, error)
        except BaseException:
            return BadMessage(f"the payload does not decode into a {turn.method.name}")

    cdef int _begin(self, Turn turn, double now) except -1:
        cdef double timeout = turn.method._timeout
        if timeout != 0 and now + timeout < turn.deadline:
            turn.deadline = now + timeout
        if turn._is_in_flight:
            turn._drop_payload()
        else:
            turn._payload = None
        self._ran += 1
        self._last_turn += 1
        turn.number = self._last_turn
        if turn.caller.uses:
            turn.mailbox.used_again = turn.mailbox.used_at != -INFINITY
            turn.mailbox.used_at = now
        turn.mailbox.turn = turn
        return 0

    cdef object _invoke(self, Turn turn, message):
        # Call the handler. Returns its result, or UNDER_WAY if it waits for something.
        global plain_turn
        cdef Method method = turn.method
        cdef bint has_ended = True
        context = self._context_of(turn)
        # that of a handler that has sent this request to a neighbour and is still running
        cdef PyObject* outer = plain_turn
        # The tasks of an async handler inherit their turn, whenever they run. Those that a def
        # handler starts run when its turn is over.
        plain_turn = NULL if method._is_async else <PyObject*>turn
        PyContext_Enter(context)
        try:
            if method._is_async:
                PyContextVar_Set(current_turn, turn)
            if turn.values is not None:
                PyContextVar_Set(carried_values, turn.values)
            if turn._is_sampled():
                self._enter_span(turn)
            if method._takes_app_data:
                result = method._function(turn.mailbox.instance, message, self.app_data)
            else:
                result = method._function(turn.mailbox.instance, message)
        finally:
            PyContext_Exit(context)
            if not method._is_async:
                plain_turn = outer
        if not method._is_async:
            return result
        try:
            result = start(result, self._loop, method._task_options, context, &has_ended)
        finally:
            plain_turn = outer
        if has_ended:
            return result
        turn._task = result
        self._keep(turn)
        result.add_done_callback(turn)
        return UNDER_WAY

    cdef int _settle(self, Turn turn, result, error) except -1:
        # The handler has ended: answer, and free the object.
        cdef Mailbox mailbox = turn.mailbox
        try:
            if error is None:
                self._answer(turn, result)
            else:
                self._answer_error(turn, error)
        finally:
            turn._end()
            if turn.span is not None:
                turn._close_span()
            mailbox.turn = None
            if mailbox.closing and mailbox.open:
                self.runtime.deactivate(mailbox)
        return 0

    cdef int _answer_error(self, Turn turn, error) except -1:
        try:
            if turn._is_sampled():
                turn.span.failed(error)
            if isinstance(error, CancelledError):
                turn._answer_cancelled(error)
            elif isinstance(error, (CallTimeout, Expired)) and self._is_over(turn):
                # A call of the handler had no more time than the turn itself, and ended first.
                turn._expired = True
                turn._answer_cancelled(error)
            else:
                self.runtime.answer_failure(turn, error)
        except BaseException as problem:
            self._answer_plainly(turn, problem)
        return 0

    cdef bint _is_over(self, Turn turn) except -1:
        # Whether the time of a turn is over, or will be within the precision of deadlines.
        return self._now() > turn.deadline - DEADLINE_PRECISION

    cdef int _answer_plainly(self, Turn turn, problem) except -1:
        # To tell how a turn has ended has failed.
        return refuse(turn, HandlerFailed(
            f"{turn.table.type_name}/{turn.id} ended {turn.method.name}, and how cannot be told",
            [type(problem).__name__, ""],
        ))

    cdef int _answer(self, Turn turn, result) except -1:
        # The handler has returned: reply, unless the node is no longer sure to be the object's
        # owner.
        cdef Method method = turn.method
        cdef bint is_encoding = False
        if turn._abandoned:
            return 0
        try:
            if self._now() >= self.lease_until:
                self.fenced += 1
                return refuse(turn, turn._lease_is_lost())
            is_encoding = True
            if type(result) is method._reply_class:
                payload = <bytes?>method._encode(result)
            else:
                payload = <bytes?>self.runtime.encode_reply(turn, result)
            is_encoding = False
            turn._end()
            return turn.caller._reply(turn, payload)
        except BaseException as problem:
            if is_encoding:
                return self._refuse_reply(turn, result, problem)
            return self._answer_plainly(turn, problem)

    cdef int _refuse_reply(self, Turn turn, result, problem) except -1:
        # What the handler has returned cannot be encoded.
        try:
            return refuse(turn, self.runtime.unencodable(result, problem))
        except BaseException as another:
            return self._answer_plainly(turn, another)

    cdef int _pump(self, Mailbox mailbox) except -1:
        cdef Turn turn
        cdef double now
        if mailbox._waiting is not None:
            now = self._now()
            self._note_gap(now)
        while mailbox.turn is None and mailbox.open and not mailbox.closing:
            if mailbox._waiting is None or mailbox._is_put_off:
                return 0
            if now - self._busy_since >= self.loop_budget:
                return self._put_off_rest(mailbox)
            turn = mailbox._next()
            if not turn._abandoned and not turn.finished:
                self._start(turn)
                self._busy_until = now = self._now()
                if mailbox in self._paused:
                    return 0
        if mailbox.closing and mailbox.turn is None and mailbox.open:
            self.runtime.deactivate(mailbox)
        return 0

    cdef int _pause(self, Turn turn) except -1:
        # Without the lease nothing starts; the turn goes on when the lease is renewed.
        self.fenced += 1
        problem = self._why_not_hold(turn)
        if problem is not None:
            return refuse(turn, problem)
        turn.mailbox._wait_first(turn)
        self._paused[turn.mailbox] = None
        return self._keep(turn)

    cdef int _expire(self, Turn turn) except -1:
        if turn.mailbox is not None:
            turn.mailbox._leave(turn)
        return refuse(turn, turn._expiry())
