# cython: language_level=3
"""One request on its way through a server: parse, find the object, admit, take a turn, decode, call
the handler, encode, write.

All of that happens in one C call for everything that a read brought. A slow case (an object that is
not in memory, an exception, a reply of an unexpected class) leaves through a method of ``runtime``,
the Python owner, and comes back through one of the turn or the mailbox.
"""

import asyncio
import contextvars
import os
import sys
from collections import deque

from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from cpython.contextvars cimport PyContext_Enter, PyContext_Exit, PyContextVar_Set, get_value
from cpython.unicode cimport PyUnicode_AsUTF8AndSize, PyUnicode_DecodeUTF8
from libc.stdint cimport uint8_t, uint32_t, uint64_t
from libc.string cimport memcmp

cimport cython

from rio._core.clock cimport system_clock
from rio._core.frame cimport (
    CANCEL,
    REQUEST,
    Cursor,
    FrameReader,
    FrameWriter,
    ReceiveBuffer,
    take_array,
    take_bin_or_nil,
    take_str,
    take_uint,
)

from rio._core.frame import DEFAULT_FRAME_LIMIT
from rio.errors import (
    BadIdentity,
    CallTimeout,
    Expired,
    FrameTooLarge,
    HandlerFailed,
    OutcomeUnknown,
    Overloaded,
    ProtocolError,
    ReplyTooLarge,
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
    # that of the def handler which this thread is in; borrowed from who called it
    PyObject* plain_turn "rio_plain_turn"
    ctypedef struct AsyncMethods "PyAsyncMethods":
        int (*am_send)(PyObject*, PyObject*, PyObject**) except -1
    ctypedef struct TypeWithSend "PyTypeObject":
        AsyncMethods* tp_as_async
    int PyIter_Send(object iterator, object value, PyObject** result) except -1
    object PyObject_Call(object function, tuple args, dict options)


cdef enum:
    MAX_TYPE_NAME = 128     # rio.identity says the same
    MAX_ID = 512
    REQUEST_FIELDS = 8
    RESPONSE = 2
    ROOM_FOR_HEAD = 32
    RETURNED = 0            # what PyIter_Send says of a coroutine that has ended
    # answers that wait for the rest of a read at most: the client works on them while we go on
    # (bench/test_ping.py)
    FLUSH_EVERY = 16


cdef object Task = asyncio.Task
# by loop
cdef dict current_tasks = asyncio.tasks._current_tasks if sys.version_info < (3, 12) else {}
cdef object enter_task = asyncio.tasks._enter_task
cdef object leave_task = asyncio.tasks._leave_task
cdef bint EAGER = sys.version_info >= (3, 12)
cdef double DEFAULT_TIMEOUT = 30.0

cdef object NEVER = object()       # the result of a handler that has not returned

cdef object current_turn = contextvars.ContextVar("rio_current_turn", default=None)


cdef Turn running_turn():
    """The turn that the running code belongs to, or None: outside of any, or after its turn has
    ended.
    """
    value = <object>plain_turn if plain_turn is not NULL else get_value(current_turn, None)
    if value is None:
        return None
    cdef Turn turn = <Turn?>value
    return None if turn.finished else turn


def current():
    """The turn that the running code belongs to, or ``None``."""
    return running_turn()


@cython.final
cdef class Method:
    """One row of the dispatch table: a handler, and how its message and reply travel."""

    def __init__(self, handler, str name, *, function, decode, encode, reply_class, bint is_async, bint takes_app_data, timeout):
        self.handler = handler
        self.name = name
        self._function = function
        self._decode = decode
        self._encode = encode
        self._reply_class = reply_class
        self._is_async = is_async
        self._takes_app_data = takes_app_data
        self._timeout = timeout or 0.0


@cython.final
cdef class TypeTable:
    """What one node knows of one type: its handlers, and its objects that are in memory."""

    def __init__(self, str type_name, methods):
        self.type_name = type_name
        self._methods = {method.name: method for method in methods}
        self.mailboxes = {}

    @property
    def methods(self):
        """Message name to :class:`Method`, a copy."""
        return dict(self._methods)


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
        self.used_at = 0.0
        table.mailboxes[id] = self

    @property
    def waiting(self):
        """How many turns wait."""
        return 0 if self._waiting is None else len(self._waiting)

    def begin(self, Dispatcher dispatcher not None, context=None):
        """Take the turn for the lifecycle hooks, in the context of the caller; it ends with
        :meth:`opened` or :meth:`remove`.

        ``context``: that of the request because of which they run, whose callers wait for them.
        """
        cdef Turn turn = Turn.__new__(Turn)
        dispatcher._last_turn += 1
        turn.number = dispatcher._last_turn
        turn.mailbox = self
        turn.table = self.table
        turn.id = self.id
        turn.context = context
        self.open = False
        self.turn = turn
        PyContextVar_Set(current_turn, turn)

    def opened(self, Dispatcher dispatcher not None):
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

    cdef int _leave(self, Turn turn) except -1:
        if self._waiting is not None and turn in self._waiting:
            self._waiting.remove(turn)
            if not self._waiting:
                self._waiting = None
        return 0


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
    def abandoned(self):
        """Whether the caller has given up."""
        return self._abandoned

    @property
    def running(self):
        """Whether its handler has begun and has not ended."""
        return not self.finished and self.mailbox is not None and self.mailbox.turn is self

    def wait_for(self, Mailbox mailbox not None):
        """Queue up for an object that is not ready yet."""
        self.mailbox = mailbox
        mailbox._wait(self)
        self.connection._keep(self)

    def nested_context(self, make):
        """What calls made during this turn carry: ``make(turn)``, made once."""
        if self._nested_context is None:
            self._nested_context = make(self)
        return self._nested_context

    def fail(self, error):
        """Answer with an error."""
        self._end()
        if not self._abandoned:
            self.connection.dispatcher.failures += 1
            self.connection.answer_error(self._request_id, error)

    def cancel(self):
        """Stop it: a handler that runs is cancelled, one that waits is not started.

        It is answered as soon as it has ended.
        """
        if self._task is not None:
            self._task.cancel()
        elif not self.running:
            self._end()
            self._abandoned = True
            if self.mailbox is not None:
                self.mailbox._leave(self)

    def __call__(self, task):
        """The handler's task has ended."""
        cdef Mailbox mailbox = self.mailbox
        cdef Dispatcher dispatcher = self.connection.dispatcher
        self._task = None
        try:
            if task.cancelled():
                self._was_cancelled()
            else:
                error = task.exception()
                if error is None:
                    dispatcher._finish(self, task.result())
                else:
                    dispatcher.runtime.handler_failed(self, error)
        finally:
            self._end()
            mailbox.turn = None
            dispatcher._pump(mailbox)

    cdef int _was_cancelled(self) except -1:
        if self._abandoned:
            return 0
        who = f"{self.table.type_name}/{self.id}"
        if self._expired:
            self.fail(CallTimeout(f"{who} was still handling {self.method.name} at the deadline, and was cancelled"))
        elif self.connection.dispatcher.lease_until <= self.connection.dispatcher._now():
            self.fail(OutcomeUnknown(f"the node lost its lease while {who} handled {self.method.name}"))
        else:
            self.connection.dispatcher.runtime.handler_failed(self, asyncio.CancelledError("the handler was cancelled"))
        return 0

    cdef int _end(self) except -1:
        if not self.finished:
            self.finished = True
            if self.connection is not None:
                self.connection._forget(self)
        return 0


cdef class ServerHalf:
    """The server's half of one connection, without the socket: bytes come in, turns are taken,
    answers go out in one write for each read.

    Subclasses own the transport and answer what is rare: ``control(kind, id, body)`` gets every
    frame that is no request, ``answer_error(id, error)`` writes an error, ``broken(error)`` is told
    that the peer does not speak the protocol, and ``flushed()`` hears of each write while
    ``watched``.
    """

    def __init__(self, Dispatcher dispatcher not None, Py_ssize_t frame_limit=DEFAULT_FRAME_LIMIT):
        self.dispatcher = dispatcher
        self.reader = FrameReader(frame_limit, dispatcher._receive_buffer)
        self.writer = FrameWriter()
        self.transport = None
        self._in_flight = {}
        self.accepted = False
        self.watched = False
        self._table = None
        self._method = None
        self._reading = False
        self._flush_is_due = False

    @property
    def in_flight(self):
        """The turns that are waiting or running."""
        return list(self._in_flight.values())

    def get_buffer(self, Py_ssize_t sizehint):
        """Where the transport may write: the reader's free room."""
        return self.reader

    def buffer_updated(self, Py_ssize_t nbytes):
        """Handle all whole frames that have arrived; their answers leave in few writes."""
        self.reader.received(nbytes)
        self._read()

    def receive(self, bytes data not None):
        """Handle these bytes, as if the transport had read them."""
        cdef Py_ssize_t taken = 0
        while taken < PyBytes_GET_SIZE(data) and self.transport is not None:
            taken += self.reader._copy(<const uint8_t*>PyBytes_AS_STRING(data) + taken, PyBytes_GET_SIZE(data) - taken)
            self._read()

    cdef int _read(self) except -1:
        cdef Cursor body
        cdef int frames = 0
        self._reading = True
        try:
            while self.reader._next(&body):
                self._frame(&body)
                frames += 1
                if frames % FLUSH_EVERY == 0:
                    self._flush()
        except (ProtocolError, FrameTooLarge) as error:
            self.broken(error)
        finally:
            self._reading = False
            if get_value(current_turn, None) is not None:
                PyContextVar_Set(current_turn, None)
            self._flush()
        return 0

    def flush(self):
        """Give what is written to the transport now."""
        self._flush()

    def put(self, bytes body not None):
        """Write one frame."""
        self.writer.put(body)
        self._written()

    def abandon(self):
        """The peer is gone: nobody waits for the turns any more, so those that run are cancelled
        and those that wait never start.
        """
        for turn in list(self._in_flight.values()):
            (<Turn>turn)._abandoned = True
            turn.cancel()

    cdef int _frame(self, Cursor* body) except -1:
        cdef const uint8_t* start = body.at
        cdef uint32_t fields
        cdef uint64_t kind, id
        if take_array(body, &fields) or fields < 2 or take_uint(body, &kind) or take_uint(body, &id):
            raise ProtocolError("a frame is not a MessagePack array that starts with its kind and its id")
        if kind == REQUEST and self.accepted:
            if fields != REQUEST_FIELDS:
                raise ProtocolError(f"a request has {REQUEST_FIELDS} fields, this one has {fields}")
            return self._request(body, id)
        if kind == CANCEL and self.accepted:
            return self._cancel(id)
        self.control(kind, id, PyBytes_FromStringAndSize(<const char*>start, body.end - start))
        return 0

    cdef int _request(self, Cursor* body, uint64_t request_id) except -1:
        # Until the payload is copied nothing here may run Python code, which could read on and move
        # what the body lies in.
        cdef Dispatcher dispatcher = self.dispatcher
        cdef const uint8_t* data
        cdef Py_ssize_t size
        cdef uint64_t timeout
        cdef Turn turn
        if self._in_flight and request_id in self._in_flight:
            raise ProtocolError(f"request id {request_id} is in use by a call that has not ended")
        if request_id > self.last_request:
            self.last_request = request_id
        dispatcher.calls += 1
        if take_str(body, &data, &size):
            raise ProtocolError("a request's object type is no string")
        if size == 0 or size > MAX_TYPE_NAME:
            return self._refuse(request_id, BadIdentity(f"a type name has 1 to {MAX_TYPE_NAME} bytes, this one has {size}"))
        if self._table is None or not same(self._table.type_name, data, size):
            type_name = text(data, size)
            self._table = <TypeTable>dispatcher.tables.get(type_name)
            self._method = None
            if self._table is None:
                return self._refuse(request_id, UnknownType(dispatcher.runtime.unknown_type(type_name)))
        if take_str(body, &data, &size):
            raise ProtocolError("a request's object id is no string")
        if size == 0 or size > MAX_ID:
            return self._refuse(request_id, BadIdentity(f"an object id has 1 to {MAX_ID} bytes, this one has {size}"))
        id = text(data, size)
        if take_str(body, &data, &size):
            raise ProtocolError("a request's message name is no string")
        if size == 0 or size > MAX_TYPE_NAME:
            return self._refuse(request_id, BadIdentity(f"a message's name has 1 to {MAX_TYPE_NAME} bytes, this one has {size}"))
        if self._method is None or not same(self._method.name, data, size):
            message_name = text(data, size)
            self._method = <Method>self._table._methods.get(message_name)
            if self._method is None:
                return self._refuse(request_id, UnknownMessage(dispatcher.runtime.unknown_message(self._table, message_name)))
        if take_uint(body, &timeout):
            raise ProtocolError("a request's timeout is no unsigned number of milliseconds")
        if take_bin_or_nil(body, &data, &size):
            raise ProtocolError("a request's context is neither binary nor nil")
        context = None if data is NULL else PyBytes_FromStringAndSize(<const char*>data, size)
        payload = PyBytes_FromStringAndSize(<const char*>body.at, body.end - body.at)
        turn = Turn.__new__(Turn)
        turn.connection = self
        turn._request_id = request_id
        turn.table = self._table
        turn.id = id
        turn.method = self._method
        turn.context = context
        turn._payload = payload
        turn.deadline = dispatcher._now() + (<double>timeout / 1000.0 if timeout else DEFAULT_TIMEOUT)
        return dispatcher._admit(turn)

    cdef int _refuse(self, uint64_t request_id, error) except -1:
        self.dispatcher.failures += 1
        self.answer_error(request_id, error)
        return 0

    cdef int _cancel(self, uint64_t request_id) except -1:
        turn = self._in_flight.get(request_id)
        if turn is None:
            self.cancelled(request_id)
        else:
            (<Turn>turn)._abandoned = True
            turn.cancel()
        return 0

    def cancelled(self, request_id):
        """The peer no longer wants an answer to what is no turn.

        Subclasses that subscribe look for a subscription.
        """

    cdef int _keep(self, Turn turn) except -1:
        if turn._request_id not in self._in_flight:
            self._in_flight[turn._request_id] = turn
            self.dispatcher._in_flight += 1
        return 0

    cdef int _forget(self, Turn turn) except -1:
        if self._in_flight and self._in_flight.pop(turn._request_id, None) is not None:
            self.dispatcher._in_flight -= 1
        return 0

    cdef int _flush(self) except -1:
        self._flush_is_due = False
        if self.writer._waits() and self.transport is not None:
            self.writer._send_to(self.transport)
        if self.watched:
            self.flushed()
        return 0

    cdef int _written(self) except -1:
        # Something is in the writer: it leaves at the end of this read, or of this turn of the
        # loop.
        if not self._reading and not self._flush_is_due:
            self._flush_is_due = True
            self.dispatcher._flush_soon(self)
        return 0


cdef inline str text(const uint8_t* data, Py_ssize_t size):
    try:
        return PyUnicode_DecodeUTF8(<const char*>data, size, NULL)
    except UnicodeDecodeError as error:
        raise ProtocolError(f"a name in a request is not valid UTF-8: {error}") from error


cdef inline bint same(str known, const uint8_t* data, Py_ssize_t size) except -1:
    # Most requests of a connection name what the one before named: comparing bytes is cheaper than
    # making and hashing a string.
    cdef Py_ssize_t known_size
    cdef const char* known_data = PyUnicode_AsUTF8AndSize(known, &known_size)
    return known_size == size and memcmp(known_data, data, size) == 0


cdef int refuse(Turn turn, error) except -1:
    turn.fail(error)
    return 0


cdef class Dispatcher:
    """The dispatch table of one node, and the rules by which turns are taken.

    ``runtime`` is asked in every slow case: ``activate(turn)``, ``undecodable(turn, error)``,
    ``handler_failed(turn, error)``, ``encode_reply(turn, value)``, ``unencodable(value, error)``,
    ``cycle(turn, mailbox)``, ``turn_ended(mailbox)``, ``unknown_type(name)``,
    ``unknown_message(table, name)``. ``clock`` replaces the system's, in seconds.
    """

    def __init__(self, runtime, tables, *, clock=None, Py_ssize_t waiting_limit=1024, Py_ssize_t in_flight_limit=8192):
        self.runtime = runtime
        self.tables = {table.type_name: table for table in tables}
        self._loop = None
        self.app_data = None
        self.lease_until = 0.0
        self.waiting_limit = waiting_limit
        self.in_flight_limit = in_flight_limit
        self.connections = {}
        self._clock = clock
        self._receive_buffer = ReceiveBuffer()
        self._last_turn = int.from_bytes(os.urandom(8), "big") >> 1
        self._paused = {}
        self._unflushed = []

    @property
    def loop(self):
        """The event loop on which handlers run."""
        return self._loop

    @loop.setter
    def loop(self, loop):
        cdef TypeTable table
        cdef Method method
        self._loop = loop
        for found in self.tables.values():
            table = <TypeTable>found
            for found_method in table._methods.values():
                method = <Method>found_method
                method._task_options = {"loop": loop, "name": f"{table.type_name}.{method.name}"}
                if EAGER:
                    method._task_options["eager_start"] = True

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
        return self._in_flight

    @property
    def live(self):
        """How many objects are in memory."""
        return sum(len((<TypeTable>table).mailboxes) for table in self.tables.values())

    def mailboxes(self):
        """All objects in memory, a list."""
        return [mailbox for table in self.tables.values() for mailbox in (<TypeTable>table).mailboxes.values()]

    def set_lease(self, double until):
        """Move the moment until which turns may start; what waited for it goes on."""
        self.lease_until = until
        if self._paused and self._now() < until:
            paused, self._paused = self._paused, {}
            for mailbox in paused:
                self._pump(mailbox)
            PyContextVar_Set(current_turn, None)

    def sweep(self):
        """Cancel the handlers and answer the turns whose deadline has passed; have idle connections
        give memory back.
        """
        cdef Turn turn
        cdef double now = self._now()
        for connection in self.connections:
            (<ServerHalf>connection).reader.relax()
            (<ServerHalf>connection).writer.relax()
            if (<ServerHalf>connection)._in_flight:
                for waiting in list((<ServerHalf>connection)._in_flight.values()):
                    turn = <Turn>waiting
                    if turn.deadline < now and not turn._expired:
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
            (<ServerHalf>connection)._flush()

    cdef int _flush_soon(self, ServerHalf connection) except -1:
        if not self._unflushed:
            self._loop.call_soon(self.flush)
        self._unflushed.append(connection)
        return 0

    cdef double _now(self) except? -1:
        return system_clock() if self._clock is None else <double>self._clock()

    cdef int _admit(self, Turn turn) except -1:
        # A request has arrived whole: start it, queue it, or have its object activated.
        cdef Mailbox mailbox = <Mailbox>turn.table.mailboxes.get(turn.id)
        if self._in_flight >= self.in_flight_limit:
            return refuse(turn, Overloaded(f"{self.in_flight_limit} calls are waiting or running on this node already"))
        if mailbox is None:
            self.runtime.activate(turn)
            return 0
        turn.mailbox = mailbox
        if mailbox.turn is None and mailbox.open and mailbox._waiting is None and not mailbox.closing:
            return self._start(turn)
        if turn.context is not None and mailbox.turn is not None:
            error = self.runtime.cycle(turn, mailbox)
            if error is not None:
                return refuse(turn, error)
        if mailbox._waiting is not None and len(mailbox._waiting) >= self.waiting_limit:
            return refuse(turn, Overloaded(f"{self.waiting_limit} calls wait for {turn.table.type_name}/{turn.id} already"))
        mailbox._wait(turn)
        return turn.connection._keep(turn)

    cdef int _start(self, Turn turn) except -1:
        global plain_turn
        # The object is free: give the turn to this request. It has ended on return, or its task is
        # under way.
        cdef Mailbox mailbox = turn.mailbox
        cdef Method method = turn.method
        cdef Guard guard
        # of the handler that has sent this request to a neighbour and is still running
        cdef PyObject* outer = plain_turn
        cdef double now = self._now()
        if now >= self.lease_until:
            return self._pause(turn)
        if now > turn.deadline:
            return self._expire(turn)
        if method._timeout != 0 and now + method._timeout < turn.deadline:
            turn.deadline = now + method._timeout
        try:
            message = method._decode(turn._payload)
        except Exception as error:
            turn.fail(self.runtime.undecodable(turn, error))
            return 0
        turn._payload = None
        self._last_turn += 1
        turn.number = self._last_turn
        mailbox.used_at = now
        mailbox.turn = turn
        # The tasks of an async handler inherit their turn, whenever they run. Those that a def
        # handler starts run when its turn is over.
        if method._is_async:
            plain_turn = NULL
            PyContextVar_Set(current_turn, turn)
        else:
            plain_turn = <PyObject*>turn
        try:
            if method._takes_app_data:
                result = method._function(mailbox.instance, message, self.app_data)
            else:
                result = method._function(mailbox.instance, message)
            if method._is_async:
                guard = Guard.__new__(Guard)
                guard._coroutine = result
                options = method._task_options
                task = PyObject_Call(Task, (guard,), options) if EAGER else started_task(guard, self._loop, options)
                result = guard._result
                if result is NEVER:
                    if not task.done():
                        plain_turn = outer
                        turn._task = task
                        turn.connection._keep(turn)
                        task.add_done_callback(turn)
                        return 0
                    result = task.result()
        except KeyboardInterrupt:
            plain_turn = outer
            raise
        except BaseException as error:
            plain_turn = outer
            try:
                self.runtime.handler_failed(turn, error)
            finally:
                self._release(turn)
            return 0
        plain_turn = outer
        self._finish(turn, result)
        return self._release(turn)

    cdef int _release(self, Turn turn) except -1:
        # The handler has ended without waiting for anything.
        turn._end()
        turn.mailbox.turn = None
        if turn.mailbox.closing:
            self.runtime.turn_ended(turn.mailbox)
        return 0

    cdef int _finish(self, Turn turn, object result) except -1:
        # The handler has returned: answer, unless the node is no longer sure to be the object's
        # owner.
        cdef Method method = turn.method
        cdef ServerHalf connection = turn.connection
        if turn._abandoned:
            return 0
        if self._now() >= self.lease_until:
            self.fenced += 1
            turn.fail(OutcomeUnknown(f"the node lost its lease while {turn.table.type_name}/{turn.id} handled {method.name}"))
            return 0
        try:
            if type(result) is method._reply_class:
                payload = <bytes>method._encode(result)
            else:
                payload = <bytes>self.runtime.encode_reply(turn, result)
        except Exception as error:
            turn.fail(self.runtime.unencodable(result, error))
            return 0
        if len(payload) + ROOM_FOR_HEAD > connection.reader.limit:
            turn.fail(ReplyTooLarge(
                f"the reply of {turn.table.type_name}/{turn.id} to {method.name} takes {len(payload)} bytes, "
                f"the frame limit is {connection.reader.limit}"))
            return 0
        turn._end()
        connection.writer.put_message(RESPONSE, turn._request_id, payload)
        return connection._written()

    cdef int _pump(self, Mailbox mailbox) except -1:
        cdef Turn turn
        while mailbox.turn is None and mailbox.open and not mailbox.closing and mailbox._waiting is not None:
            turn = <Turn>mailbox._waiting.popleft()
            if not mailbox._waiting:
                mailbox._waiting = None
            if not turn._abandoned and not turn.finished:
                self._start(turn)
                if mailbox in self._paused:
                    return 0
        if mailbox.closing and mailbox.turn is None and mailbox.open:
            self.runtime.turn_ended(mailbox)
        return 0

    cdef int _pause(self, Turn turn) except -1:
        # Without the lease nothing starts; it goes on when the lease is renewed.
        self.fenced += 1
        if turn.mailbox._waiting is None:
            turn.mailbox._waiting = deque()
        turn.mailbox._waiting.appendleft(turn)
        turn.connection._keep(turn)
        self._paused[turn.mailbox] = None
        return 0

    cdef int _expire(self, Turn turn) except -1:
        if turn.mailbox is not None:
            turn.mailbox._leave(turn)
        turn.fail(Expired(f"{turn.method.name} waited for {turn.table.type_name}/{turn.id} until its deadline, and was not started"))
        return 0


@cython.final
@cython.freelist(64)
cdef class Guard:
    """A handler's coroutine, from which ``sys.exit()`` does not escape: asyncio would end the whole
    loop with it.
    """

    cdef object _coroutine
    cdef object _result        # NEVER, until it has returned

    def __cinit__(self):
        self._result = NEVER

    def __iter__(self):
        return self

    def __await__(self):
        return self

    def __next__(self):
        return self.send(None)

    def send(self, value):
        try:
            return self._coroutine.send(value)
        except SystemExit as error:
            raise exited(error) from error

    def throw(self, *error):
        try:
            return self._coroutine.throw(*error)
        except SystemExit as error:
            raise exited(error) from error

    def close(self):
        self._coroutine.close()

    def __getattr__(self, name):
        # cr_frame and the like, so that a task's stack can be read
        return getattr(self._coroutine, name)


@cython.final
@cython.freelist(64)
cdef class FirstStep:
    """Stands in for ``loop.call_soon`` while a task is made, and keeps what the task would have had
    called.
    """

    cdef object step
    cdef object context

    def __call__(self, step, *, context=None):
        self.step = step
        self.context = context


cdef object started_task(Guard guard, loop, dict options):
    # What Task(eager_start=True) does from Python 3.12 on: an ordinary task whose first step is
    # made now and not in the loop's next turn, which would cost more than all the rest of a short
    # call.
    cdef FirstStep first_step = FirstStep.__new__(FirstStep)
    try:
        loop.call_soon = first_step
    except AttributeError:
        return PyObject_Call(Task, (guard,), options)     # a loop that takes no attributes
    try:
        task = PyObject_Call(Task, (guard,), options)
    finally:
        del loop.call_soon
    step, context = first_step.step, first_step.context
    outer = current_tasks.get(loop)
    if outer is not None:
        leave_task(loop, outer)
    PyContext_Enter(context)
    try:
        step()
    finally:
        PyContext_Exit(context)
        if outer is not None:
            enter_task(loop, outer)
    return task


cdef int guard_send(PyObject* guard, PyObject* value, PyObject** result) except -1:
    # Whoever sends looks for this first: a handler that ends hands its result over without a
    # StopIteration being made for it.
    cdef int sent
    try:
        sent = PyIter_Send((<Guard>guard)._coroutine, <object>value, result)
    except SystemExit as error:
        raise exited(error) from error
    if sent == RETURNED:
        (<Guard>guard)._result = <object>result[0]
    return sent


(<TypeWithSend*>Guard).tp_as_async.am_send = guard_send


cdef object exited(error):
    return HandlerFailed(f"the handler called sys.exit({error.code!r})", ["SystemExit", ""])
