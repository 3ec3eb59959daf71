# cython: language_level=3
"""One call on its way through a client (encode, find the connection, write), and its answer on the
way back (match, decode, wake the caller).

What is rare (no connection yet, an error, a cancelled caller) leaves through a method of the Python
owner.
"""

import asyncio
from asyncio import CancelledError, InvalidStateError
from collections import OrderedDict, deque
from itertools import chain

from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_GET_SIZE
from cpython.contextvars cimport (
    PyContext_CopyCurrent,
    PyContext_Enter,
    PyContext_Exit,
    get_value,
)
from cpython.ref cimport Py_DECREF, Py_INCREF
from cpython.unicode cimport PyUnicode_AsUTF8AndSize
from libc.stdint cimport uint8_t, uint64_t
from libc.string cimport strcmp

cimport cython

cimport rio._core.limits as limits
from rio._core.clock cimport system_clock
from rio._core.connection cimport Connection
from rio._core.dispatch cimport (
    Turn,
    carried_values,
    carries_values,
    is_in_a_plain_handler,
    running_turn,
)
from rio._core.frame cimport ReceiveBuffer
from rio._core.hidden cimport hide
from rio._core.msgpack cimport bytes_of
from rio._core.task cimport is_in_a_task, takes_short_cuts
from rio._core.wire cimport Frame, Kind, Request, Text, put_cancel, put_request, room_for_request

from rio.errors import (
    BadIdentity,
    BadReply,
    CallRefused,
    CallTimeout,
    ConfigurationError,
    Expired,
    FrameTooLarge,
    NoServersAvailable,
    NotExecuted,
    OutcomeUnknown,
    Overloaded,
    RioError,
)


cdef extern from "Python.h":
    ctypedef struct PyObject:
        pass
    ctypedef struct AsyncMethods "PyAsyncMethods":
        int (*am_send)(PyObject*, PyObject*, PyObject**) noexcept
    ctypedef struct TypeWithSend "PyTypeObject":
        AsyncMethods* tp_as_async
        PyObject* (*tp_iternext)(PyObject*) noexcept
    ctypedef struct PyMethodDef:
        const char* ml_name
    ctypedef struct PyCFunctionObject:
        PyMethodDef* m_ml
    PyObject* PyDict_GetItemWithError(object dict, object key) except? NULL
    bint PyCFunction_CheckExact(object function)
    void PyErr_SetObject(object type, object value)


cdef enum:
    # what a step of an awaitable says, which Python calls a PySendResult
    RAISED = -1
    RETURNED = 0
    YIELDED = 1


cdef enum State:
    PENDING
    ANSWERED
    FAILED
    CANCELLED


cdef enum Stepping:
    UNDECIDED
    AT_ONCE
    LATER


cdef object get_running_loop = asyncio._get_running_loop      # None where none runs
cdef double INFINITY = float("inf")
cdef object NOT_SAMPLED = False
cdef bytes ONLY_UNSAMPLED = b"\x81\xa5trace\xc2"     # the context that says so, and nothing else
cdef str NOT_OPEN = (
    "this client is not open: use it as `async with rio.Client(...) as client`,"
    " or await client.start()"
)
cdef str ELSEWHERE = (
    "this client is used outside the event loop in which it was started, so nothing was done:"
    " open a client in each event loop, and from another thread use"
    " asyncio.run_coroutine_threadsafe()"
)


@cython.final
cdef class MessageCodec:
    """How messages of one class travel: ``encode(message) -> bytes``, ``decode(bytes) -> reply``,
    and whether a call may be repeated.

    ``name`` is ``None`` for dynamic messages, which bring their own as ``type_name``.
    """

    cdef readonly str name
    cdef object encode
    cdef object decode
    cdef readonly bint repeatable
    cdef readonly bint dynamic_reply

    def __cinit__(self, name, encode, decode, *, bint repeatable=False, bint dynamic_reply=False):
        self.name = name
        self.encode = encode
        self.decode = decode
        self.repeatable = repeatable
        self.dynamic_reply = dynamic_reply


@cython.final
@cython.freelist(256)
@cython.nonecheck(False)
cdef class Call:
    """One call, with all that is needed to send it again, and the future that its caller awaits.

    It is to asyncio what every future is, ``gather()``, ``wait()`` and ``shield()`` included. Only
    the reply is quicker than that of an ``asyncio.Future``: the task that awaits it goes on while
    the read that has brought it is handled, and not in the loop's next turn.
    """

    cdef public bint _asyncio_future_blocking    # asyncio knows a future by it
    cdef readonly Caller caller
    cdef readonly str type_name
    cdef readonly str id
    cdef readonly str message_name
    cdef readonly bytes payload
    cdef readonly bytes context       # None: nothing travels with it
    cdef readonly double deadline     # on the caller's clock
    cdef readonly bint overdue        # it was cancelled at its deadline, and waits for the verdict
    cdef readonly bint repeatable     # may be sent again although it may have run
    cdef public int attempts          # how often it was sent again after it had not been executed
    cdef public int hops              # redirects followed
    cdef public object last_error     # why it is not sent yet; None at first
    cdef public object doubt          # what an attempt that may have run met; None: none may have
    # what the owner notes about nodes that refused it; None at first
    cdef public object refusals
    # the calls among which it has its place while that of its object is not sure; None: no matter
    cdef readonly object line
    cdef object _decode
    cdef object _loop
    cdef State _state
    cdef object _outcome         # the reply, the Failure, or what cancel() was told
    # who is told of the end, each with a context; mostly it is one, or nobody yet
    cdef object _callback
    cdef object _callback_context
    cdef list _callbacks         # the others; None: there are none
    cdef object __weakref__
    # where it waits for its answer, or to be written; None: nowhere
    cdef ClientHalf _connection
    cdef readonly uint64_t request_id  # 0: it was not written there
    cdef Turn _turn              # during which it is made; None: outside of any
    cdef bint _is_told                # nobody waits for the answer
    cdef readonly object span         # None: nobody traces it
    cdef bint _is_routed              # it was sent where its object was found before

    # --- what asyncio asks of a future ------------------------------------------------------------

    def __await__(self):
        return self

    def __iter__(self):
        return self

    def __next__(self):
        return (<object (*)(PyObject*)>next_of_call)(<PyObject*>self)

    def __repr__(self):
        return (
            f"<Call of {self.message_name} to {self.type_name}/{self.id},"
            f" {('pending', 'answered', 'failed', 'cancelled')[<int>self._state]}>"
        )

    def get_loop(self):
        """The event loop on which the call was made."""
        return self._loop

    def done(self):
        """Whether it has been answered, has failed, or was cancelled."""
        return self._state != PENDING

    def cancelled(self):
        """Whether it was cancelled."""
        return self._state == CANCELLED

    def result(self):
        """The reply; raises the error instead if there is one."""
        if self._state == ANSWERED:
            return self._outcome
        raise self._error()

    def exception(self):
        """The error, or ``None``."""
        if self._state == ANSWERED:
            return None
        if self._state == FAILED:
            return (<Failure>self._outcome).look()
        raise self._error()

    def cancel(self, msg=None):
        """Give up: whoever awaits it gets ``CancelledError``, and the server is told. Returns
        whether it had not ended yet.
        """
        if self._state != PENDING:
            return False
        self._end(CANCELLED, msg)
        self._loop.call_soon(self.leave)
        self._tell(LATER)
        return True

    def add_done_callback(self, callback, *, context=None):
        """Have ``callback(call)`` called in the loop's next turn after the end."""
        if context is None:
            context = PyContext_CopyCurrent()
        if self._state != PENDING:
            self._loop.call_soon(callback, self, context=context)
        elif self._callback is None:
            self._callback, self._callback_context = callback, context
        else:
            if self._callbacks is None:
                self._callbacks = []
            self._callbacks.append((callback, context))

    def remove_done_callback(self, callback):
        """Have a callback not called. Returns how often it would have been."""
        registered = self._find_callbacks()
        kept = [one for one in registered if one[0] != callback]
        self._callback = self._callback_context = self._callbacks = None
        for other, context in kept:
            self.add_done_callback(other, context=context)
        return len(registered) - len(kept)

    @property
    def _cancel_message(self):
        return self._outcome if self._state == CANCELLED else None

    def _make_cancelled_error(self):
        return CancelledError() if self._outcome is None else CancelledError(self._outcome)

    cdef object _error(self):
        # What to raise: it was not answered.
        if self._state == PENDING:
            return InvalidStateError("the call has not ended")
        if self._state == CANCELLED:
            return self._make_cancelled_error()
        return (<Failure>self._outcome).take()

    cdef list _find_callbacks(self):
        # In their order, each with its context.
        if self._callback is None:
            return []
        return [(self._callback, self._callback_context), *(self._callbacks or ())]

    cdef int _end(self, State state, outcome) except -1:
        self._state = state
        self._outcome = outcome
        if self.span is not None:
            self._end_span()
        return 0

    cdef int _end_span(self) except -1:
        span, self.span = self.span, None
        if self._state == CANCELLED:
            span.failed(self._make_cancelled_error())
        elif self._state == FAILED:
            span.failed((<Failure>self._outcome)._error)
        span.end()
        return 0

    cdef int _tell(self, Stepping stepping) except -1:
        # Wake whoever awaits it if it has ended, and call who wants to know.
        if self._callback is None or self._state == PENDING:
            return 0
        if stepping == AT_ONCE and self._callbacks is None and is_wakeup(self._callback):
            callback, context = self._callback, self._callback_context
            self._callback = self._callback_context = None
            return step(callback, context, self)
        registered = self._find_callbacks()
        self._callback = self._callback_context = self._callbacks = None
        for callback, context in registered:
            self._loop.call_soon(callback, self, context=context)
        return 0

    # --- what the client asks of a call -----------------------------------------------------------

    def leave(self):
        """Its caller has given up."""
        if self._connection is not None:
            self._connection._drop(self)
        self.caller._owner.withdraw(self)
        self._leave_line()

    @property
    def is_unwritten(self):
        """Whether it waits on its connection to be written."""
        return self._connection is not None and self.request_id == 0

    @property
    def is_awaited(self):
        """Whether anybody waits for the answer: a task, or a future such as that of a gather()."""
        return self._callback is not None

    def succeed(self, value):
        """Give the caller its reply."""
        if self._state == PENDING:
            self._end(ANSWERED, value)
            self._tell(LATER)
            self._leave_line()

    def fail(self, error):
        """Give the caller an error."""
        cdef Failure failure
        if self._state == PENDING:
            failure = Failure.__new__(Failure)
            failure._hold(self, self._final_error(error))
            self._end(FAILED, failure)
            self._tell(LATER)
            self._leave_line()

    cdef _final_error(self, error):
        # That the last attempt did not run says nothing of an earlier one.
        if self.doubt is None or not isinstance(error, (NotExecuted, CallRefused)):
            return error
        ends_at_deadline = isinstance(error, (Expired, NoServersAvailable))
        unknown = (CallTimeout if ends_at_deadline else OutcomeUnknown)(
            f"{self.message_name} to {self.type_name}/{self.id} may have run: an earlier attempt"
            f" ended with: {self.doubt}; the last one: {error}"
        )
        unknown.__cause__ = error
        return unknown

    def give_up(self, error):
        """Fail, and tell the server that nobody waits any more."""
        if self._connection is not None:
            self._connection._drop(self)
        self.fail(error)

    def note_place(self, ClientHalf connection not None):
        """The object has answered: it lives behind this connection."""
        if not self._is_routed:
            self._note_place(connection)

    cdef int _note_place(self, ClientHalf connection) except -1:
        line, self.line = self.line, None
        if line is None:
            self.caller._routes.learn(self.type_name, self.id, connection)
        else:
            line.note_answer(self, connection)
        return 0

    def enter(self, line):
        """The place of the object is not sure: from now on ``line`` hears of the call."""
        self.line = line
        self._is_routed = False

    def settle(self):
        """The call needs no line any more."""
        self.line = None
        self._is_routed = True

    cdef int _leave_line(self) except -1:
        line, self.line = self.line, None
        if line is not None:
            line.leave(self)
        return 0


@cython.nonecheck(False)
cdef int send_to_call(PyObject* self, PyObject* value, PyObject** result) noexcept:
    # Tasks and Python 3.11 look for this before `__next__`: a call that is answered hands its reply
    # over without a StopIteration.
    cdef Call call = <Call>self
    if call._state == ANSWERED:
        Py_INCREF(call._outcome)
        result[0] = <PyObject*>call._outcome
        return RETURNED
    if call._state == PENDING and not call._asyncio_future_blocking:
        call._asyncio_future_blocking = True
        Py_INCREF(call)
        result[0] = self
        return YIELDED
    try:
        error = (
            RuntimeError("a call that has not ended was not awaited, but stepped by hand")
            if call._state == PENDING else call._error()
        )
    except BaseException as problem:    # without it the interpreter would miss a result
        error = problem
    set_error(error)
    return RAISED


cdef PyObject* next_of_call(PyObject* self) noexcept:
    # `__next__` without a line of this file in the traceback, which takes longer than all the rest.
    cdef PyObject* result = NULL
    if send_to_call(self, NULL, &result) != RETURNED:
        return result
    set_error(StopIteration(<object>result))    # raised with the reply alone, a tuple falls apart
    Py_DECREF(<object>result)
    return NULL


(<TypeWithSend*>Call).tp_as_async.am_send = send_to_call
(<TypeWithSend*>Call).tp_iternext = next_of_call
hide(Call)


cdef inline void set_error(error) noexcept:
    # As `raise` does, without a line of this file in the traceback.
    PyErr_SetObject(type(error), error)


cdef inline bint is_wakeup(callback) noexcept:
    # Whether it is that with which a task of asyncio awaits a future.
    return PyCFunction_CheckExact(callback) and strcmp(
        (<PyCFunctionObject*>callback).m_ml.ml_name, "task_wakeup"
    ) == 0


cdef int step(wakeup, context, Call call) except -1:
    # Let a task go on, as the loop would do it.
    try:
        PyContext_Enter(context)
    except RuntimeError:    # this is the context of the running code
        call._loop.call_soon(wakeup, call, context=context)
        return 0
    try:
        wakeup(call)
    except BaseException as error:    # SystemExit or KeyboardInterrupt, which the loop has to see
        call._loop.call_soon(reraise, error)
    finally:
        PyContext_Exit(context)
    return 0


def reraise(error):
    """Raise an error in the loop."""
    raise error


@cython.final
cdef class Failure:
    """The error of a call. Like asyncio, it complains if nobody has ever asked for it."""

    cdef object _error
    cdef object _traceback
    cdef object _loop
    cdef str _what
    cdef bint _is_known

    cdef int _hold(self, Call call, error) except -1:
        if isinstance(error, StopIteration):    # which would end the coroutine that awaits it
            cause, error = error, RuntimeError("the call has raised StopIteration")
            error.__cause__ = cause
        self._error = error
        self._traceback = error.__traceback__
        self._loop = call._loop
        self._what = f"{call.message_name} to {call.type_name}/{call.id}"
        self._is_known = False
        return 0

    cdef object look(self):
        self._is_known = True
        return self._error

    cdef object take(self):
        # To be raised: the traceback does not grow each time.
        self._is_known = True
        traceback, self._traceback = self._traceback, None
        return self._error.with_traceback(traceback)

    def __del__(self):
        if not self._is_known and self._loop is not None:
            self._loop.call_exception_handler({
                "message": f"{self._what} has failed, and its error was never retrieved",
                "exception": self._error,
            })


hide(Failure)


@cython.final
cdef class CallQueue:
    """Calls that wait to be written. Those who made them take turns, a call at a time; whoever made
    them during one turn of an object is one of them, and so are all that belong to no turn.
    """

    cdef object _lines           # an OrderedDict: turn or None -> deque of calls
    cdef dict _counts            # object id -> how many calls

    def __cinit__(self):
        self._lines = OrderedDict()
        self._counts = {}

    cdef bint holds(self, Turn turn) except -1:
        return turn in self._lines

    cdef bint holds_for(self, str id) except -1:
        return id in self._counts

    cdef int put(self, Call call) except -1:
        line = self._lines.get(call._turn)
        if line is None:
            line = self._lines[call._turn] = deque()
        line.append(call)
        self._counts[call.id] = self._counts.get(call.id, 0) + 1
        return 0

    cdef bint is_empty(self) except -1:
        return not self._lines

    cdef Turn first(self):
        # Whose call is next.
        return <Turn>next(iter(self._lines))

    cdef Call take(self, Turn turn):
        # The next call of this turn.
        cdef Call call
        line = self._lines[turn]
        call = <Call>line.popleft()
        if line:
            self._lines.move_to_end(turn)
        else:
            del self._lines[turn]
        count = self._counts.pop(call.id)
        if count > 1:
            self._counts[call.id] = count - 1
        return call

    cdef list calls(self):
        return [call for line in self._lines.values() for call in line]


hide(CallQueue)


cdef class ClientHalf(Connection):
    """The client's half of one connection, without the socket. The calls of one turn of the loop
    leave in one write, and each answer finds its call.

    Besides what :class:`Connection` asks of it, the owner handles ``error_received(call, body)``:
    an answer that is an error.
    """

    cdef public object loop
    cdef public bint usable           # new calls may be given to it
    cdef dict _calls                  # request id -> Call
    cdef uint64_t _last_id
    cdef public bint congested        # the transport holds more than it can send at once
    cdef public Py_ssize_t unsent_limit  # bytes it may hold before calls are refused
    # So many calls may be under way. Others wait for room, and for each turn one is under way all
    # the same: the calls that take the room may wait for it.
    cdef public Py_ssize_t window
    cdef CallQueue _queue            # those that wait for room; None: none do
    cdef dict _extra                 # turn or None -> the Call that is under way all the same
    # the context in which a server in this process is given calls at once; None: none is
    cdef public object handover
    cdef int _handed_over             # so many since the loop's last turn
    cdef bint _is_handing_over
    cdef object _flush_method         # self.flush, made once
    # Seconds of one read for which the tasks whose replies it has brought go on at once, one after
    # the other; the rest is woken as the loop does it.
    cdef public double step_budget
    cdef Stepping _stepping           # in the read that is handled
    cdef double _stepped_since
    cdef bint _is_in_read
    cdef bint _flushes_after_read

    def __init__(
        self,
        loop,
        Py_ssize_t frame_limit=limits.DEFAULT_FRAME_LIMIT,
        ReceiveBuffer receive_buffer=None,
    ):
        Connection.__init__(self, frame_limit, receive_buffer)
        self.loop = loop
        self.usable = False
        self.congested = False
        self.unsent_limit = limits.UNSENT_LIMIT
        self.window = limits.IN_FLIGHT_LIMIT // 2
        self._queue = None
        self._extra = {}
        self._calls = {}
        self._last_id = 0
        self.handover = None
        self._handed_over = 0
        self._is_handing_over = False
        self._flush_method = self.flush
        self.step_budget = 0.005
        self._stepping = LATER
        self._is_in_read = False
        self._flushes_after_read = False

    @property
    def waiting(self):
        """How many calls wait for their answer."""
        return len(self._calls)

    @property
    def unwritten(self):
        """How many calls wait to be written."""
        return len(self._find_unwritten())

    def next_id(self):
        """A request id that was not used on this connection."""
        self._last_id += 1
        return self._last_id

    def submit(self, Call call not None, *, bint is_routed=False):
        """Write a call, and wait for its answer. ``is_routed``: the caller has learned already that
        the object may live behind this connection.
        """
        call._is_routed = is_routed
        self._submit(call, call.caller._now())

    def take_calls(self, uint64_t after=0):
        """All calls that were written after request number ``after`` and wait for their answers;
        this connection forgets them.
        """
        cdef Call call
        calls = [call for call in self._calls.values() if call.request_id > after]
        for call in calls:
            del self._calls[call.request_id]
            call._connection = None
        return calls

    def take_unwritten(self):
        """All calls that wait to be written; this connection forgets them."""
        cdef Call call
        calls = self._find_unwritten()
        self._queue, self._extra = None, {}
        for call in calls:
            call._connection = None
        return calls

    cdef list _find_unwritten(self):
        # Those among them whose callers have not given up.
        cdef Call call
        if self._queue is None:
            return []
        return [call for call in self._queue.calls() if call._connection is self]

    def find_companions(self, Call call not None):
        """The calls to the same object that wait here and stand in no line, in the order in which
        they are written, and among them ``call``, which has just come back.
        """
        cdef Call other
        cdef list calls = []
        cdef bint placed = False
        for other in self._calls.values():
            if other.id == call.id and other.type_name == call.type_name and other.line is None:
                if not placed and other.request_id > call.request_id:
                    placed = True
                    calls.append(call)
                calls.append(other)
        if not placed:
            calls.append(call)
        if self._queue is not None and self._queue.holds_for(call.id):
            for other in self._find_unwritten():
                if other.id == call.id and other.type_name == call.type_name and other.line is None:
                    calls.append(other)
        return calls

    def find_loose(self):
        """The calls that wait here and stand in no line, in the order in which they are written."""
        cdef Call call
        waiting = chain(self._calls.values(), self._find_unwritten())
        return [call for call in waiting if call.line is None]

    def find_awaited(self, Turn turn not None):
        """The calls that were made during a turn, and whose answers are awaited."""
        cdef Call call
        return [
            call
            for call in self._calls.values()
            if call._turn is turn and not call._is_told and call.is_awaited
        ]

    def find_overdue(self, double now):
        """The calls whose deadline has passed, and the earliest deadline of the others (``inf`` if
        there is none).
        """
        cdef Call call
        cdef double earliest = INFINITY
        cdef list late = []
        for call in chain(self._calls.values(), self._find_unwritten()):
            if call.deadline <= now:
                late.append(call)
            elif call.deadline < earliest:
                earliest = call.deadline
        return late, earliest

    def cancel_overdue(self, Call call not None, double until):
        """Tell the server that a call's deadline has passed, and wait for its answer ``until``
        then: it says whether the call has begun.
        """
        call.overdue = True
        call.deadline = until
        self._put_cancel(call)

    @cython.nonecheck(False)
    cdef int _submit(self, Call call, double now) except -1:
        if len(self._calls) >= self.window or self._queue is not None:
            if self._has_to_wait(call):
                return self._put_off(call)
        self._write(call, now)
        if len(self._calls) > self.window:
            self._extra[call._turn] = call
        return self._hand_over() if self._hands_over() else self._flush_soon()

    cdef bint _has_to_wait(self, Call call) except -1:
        if self._queue is not None and self._queue.holds(call._turn):
            return True
        return len(self._calls) >= self.window and call._turn in self._extra

    cdef int _put_off(self, Call call) except -1:
        if self._queue is None:
            self._queue = CallQueue.__new__(CallQueue)
        call._connection = self
        call.request_id = 0
        return self._queue.put(call)

    cdef bint _is_full(self) noexcept:
        # Whether the end of a call makes room that others may wait for.
        return self._queue is not None or len(self._extra) > 0

    cdef int _note_end(self, Call call) except -1:
        # A call has left its place to others.
        if self._extra and self._extra.get(call._turn) is call:
            del self._extra[call._turn]
            if self._queue is not None and self._queue.holds(call._turn):
                self._write_extra(call._turn)
        while self._queue is not None and len(self._calls) < self.window:
            self._write_late(self._take_unwritten(self._queue.first()))
        return 0

    cdef int _write_extra(self, Turn turn) except -1:
        cdef Call call
        while self._queue is not None and self._queue.holds(turn):
            call = self._take_unwritten(turn)
            if self._write_late(call):
                self._extra[turn] = call
                break
        return 0

    cdef Call _take_unwritten(self, Turn turn):
        cdef Call call = self._queue.take(turn)
        if self._queue.is_empty():
            self._queue = None
        return call

    cdef bint _write_late(self, Call call) except -1:
        # Write a call that has waited for that, and say whether it is under way.
        cdef double now = call.caller._now()
        if call._connection is not self:
            return False    # its caller has given up
        try:
            if not call.deadline > now:
                raise too_late(call)
            self._write(call, now)
        except RioError as error:
            call._connection = None
            call.fail(error)
            return False
        self._flush_soon()
        return True

    @cython.nonecheck(False)
    cdef int _write(self, Call call, double now) except -1:
        cdef Request request
        cdef Py_ssize_t payload_size = PyBytes_GET_SIZE(call.payload), room
        cdef uint8_t* at
        point_at(&request.type_name, call.type_name)
        point_at(&request.object_id, call.id)
        point_at(&request.message_name, call.message_name)
        request.timeout = milliseconds(call.deadline - now)
        request.context.data, request.context.size = NULL, 0
        if call.context is not None:
            request.context.data = PyBytes_AS_STRING(call.context)
            request.context.size = PyBytes_GET_SIZE(call.context)
        room = room_for_request(&request)
        if room + payload_size > self.send_limit:
            raise FrameTooLarge(
                f"{call.message_name} to {call.type_name}/{call.id} takes {payload_size} bytes, "
                f"the frame limit is {self.send_limit}"
            )
        if self.congested or self.writer._count() > limits.HIGH_WATER:
            self._check_unsent()
        self._last_id += 1
        request.id = call.request_id = self._last_id
        call._connection = self
        at = self.writer._begin(room, payload_size)
        self.writer._end(put_request(at, &request), call.payload)
        self._calls[call.request_id] = call
        return 0

    cdef int _check_unsent(self) except -1:
        cdef Py_ssize_t unsent = self.writer._count()
        if self.transport is not None:
            unsent += self.transport.get_write_buffer_size()
        if unsent > self.unsent_limit:
            raise Overloaded(f"{unsent} bytes wait to be sent to this server already")
        return 0

    @cython.nonecheck(False)
    cdef bint _hands_over(self) noexcept:
        # Whether a server in this process takes the next call now, and not in the loop's next turn.
        return (
            self.handover is not None
            and self._handed_over < limits.HANDED_OVER
            and not self._is_handing_over
            and self.transport is not None
        )

    @cython.nonecheck(False)
    cdef int _hand_over(self) except -1:
        # The server may have answered the call on return.
        self._handed_over += 1
        self._is_handing_over = True
        PyContext_Enter(self.handover)
        try:
            self.writer._send_to(self.transport)
        finally:
            PyContext_Exit(self.handover)
            self._is_handing_over = False
        return 0

    cdef int _drop(self, Call call) except -1:
        # Nobody waits for this call any more; tell the server, so that it does not work for
        # nothing.
        call._connection = None
        if self._calls.pop(call.request_id, None) is not None:
            if not call.overdue:
                self._put_cancel(call)
            if self._is_full():
                self._note_end(call)
        return 0

    cdef int _put_cancel(self, Call call) except -1:
        cdef uint8_t* at
        if self.transport is not None:
            at = self.writer._begin(limits.RESPONSE_HEAD, 0)
            self.writer._end(put_cancel(at, call.request_id), None)
            self._flush_soon()
        return 0

    cdef int _read(self) except -1:
        cdef Stepping stepping = self._stepping
        cdef double since = self._stepped_since
        cdef bint is_inner = self._is_in_read
        self._stepping = UNDECIDED
        self._is_in_read = True
        try:
            Connection._read(self)
        finally:
            self._is_in_read = is_inner
            self._stepping = stepping
            self._stepped_since = since
            if self._flushes_after_read:
                self._flushes_after_read = False
                self._flush()
        return 0

    @cython.nonecheck(False)
    cdef int _frame(self, Frame* frame) except -1:
        cdef Call call
        if frame.kind == Kind.RESPONSE or frame.kind == Kind.ERROR:
            call = <Call>self._calls.pop(frame.id, None)
            if call is not None:
                call._connection = None
                return self._end_call(call, frame)
        return self._leave_to_owner(frame)

    @cython.nonecheck(False)
    cdef int _end_call(self, Call call, const Frame* frame) except -1:
        # Calls that were made before are written before those that its caller makes next.
        try:
            self._take_answer(call, frame)
            if self._is_full():
                self._note_end(call)
        except BaseException:
            call._tell(LATER)
            raise
        return 0 if call._callback is None else call._tell(self._how_to_step(call))

    @cython.nonecheck(False)
    cdef Stepping _how_to_step(self, Call call) except *:
        if self._stepping == UNDECIDED:
            self._stepping = LATER
            if call.caller._takes_short_cuts and not self._is_in_other_code():
                self._stepping = AT_ONCE
                self._stepped_since = call.caller._now()
        elif self._stepping == AT_ONCE:
            if call.caller._now() - self._stepped_since >= self.step_budget:
                self._stepping = LATER
        return self._stepping

    cdef bint _is_in_other_code(self) except -1:
        # A task may go on at once where the loop itself has brought the reply. A server in this
        # process brings it in the middle of other code: a task, a handler without one, or a
        # callback that has made a call.
        return self._is_handing_over or is_in_a_plain_handler() or is_in_a_task(self.loop)

    @cython.nonecheck(False)
    cdef int _take_answer(self, Call call, const Frame* frame) except -1:
        # Whatever is raised while an answer is read is the end of that call, and of nothing else.
        if frame.kind == Kind.RESPONSE:
            return self._take_reply(call, frame)
        try:
            self.error_received(call, bytes_of(&frame.whole))
        except BaseException as error:
            call.fail(OutcomeUnknown(
                f"{call.type_name}/{call.id} has answered {call.message_name} with an error that "
                f"cannot be read: {type(error).__name__}"
            ))
        return 0

    @cython.nonecheck(False)
    cdef int _take_reply(self, Call call, const Frame* frame) except -1:
        if call._state != PENDING:
            return 0
        payload = bytes_of(&frame.rest)
        try:
            reply = call._decode(payload)
        except BaseException as error:
            return self._fail_unread(call, error)
        if call._state == PENDING:    # a decoder may have run the user's code
            call._end(ANSWERED, reply)
        if not call._is_routed:
            call._note_place(self)
        return 0

    cdef int _fail_unread(self, Call call, error) except -1:
        try:
            answer = call.caller._codecs.undecodable(call, error)
        except BaseException:
            answer = BadReply(
                f"the reply of {call.type_name}/{call.id} to {call.message_name} does not decode"
            )
        call.fail(answer)
        return 0

    cdef int _flush(self) except -1:
        self._handed_over = 0
        return Connection._flush(self)

    @cython.nonecheck(False)
    cdef int _flush_soon(self) except -1:
        if not self._flush_is_due:
            self._flush_is_due = True
            if self._is_in_read and self.handover is None:
                self._flushes_after_read = True
            else:
                self.loop.call_soon(self._flush_method)
        return 0


cdef inline int point_at(Text* text, str value) except -1:
    text.data = PyUnicode_AsUTF8AndSize(value, &text.size)
    return 0


@cython.final
@cython.nonecheck(False)
cdef class Routes:
    """Where objects were found; it remembers at most ``limit`` of them.

    There is no order of use, but two halves: when the recent half is full it becomes the older one,
    and the older one before it is forgotten.
    """

    cdef dict _recent            # type name -> id -> ClientHalf
    cdef dict _older
    cdef Py_ssize_t _count       # of objects in the recent half
    cdef readonly Py_ssize_t limit

    def __cinit__(self, Py_ssize_t limit):
        self._recent = {}
        self._older = {}
        self._count = 0
        self.limit = limit

    cdef ClientHalf find(self, str type_name, str id):
        # The connection behind which the object lives; None: not known, or not usable any more.
        objects = self._recent.get(type_name)
        if objects is not None:
            found = (<dict>objects).get(id)
            if found is not None:
                return <ClientHalf>found if (<ClientHalf>found).usable else None
        if self._older:
            objects = self._older.get(type_name)
            if objects is not None:
                found = (<dict>objects).pop(id, None)
                if found is not None and (<ClientHalf>found).usable:
                    self.remember(type_name, id, <ClientHalf>found)
                    return <ClientHalf>found
        return None

    cdef int learn(self, str type_name, str id, ClientHalf connection) except -1:
        # An answer came from this connection: the object lives behind it.
        objects = self._recent.get(type_name)
        if objects is None or (<dict>objects).get(id) is not connection:
            self.remember(type_name, id, connection)
        return 0

    cdef int remember(self, str type_name, str id, ClientHalf connection) except -1:
        objects = self._recent.get(type_name)
        if objects is None:
            objects = self._recent[type_name] = {}
        if id not in <dict>objects:
            self._count += 1
        (<dict>objects)[id] = connection
        if self._count * 2 > self.limit:
            self._older, self._recent = self._recent, {}
            self._count = 0
        return 0

    cdef int forget(self, str type_name, str id) except -1:
        for generation in (self._recent, self._older):
            objects = generation.get(type_name)
            if objects is not None:
                objects.pop(id, None)
        return 0


@cython.final
@cython.nonecheck(False)
cdef class Caller:
    """Sends calls, and remembers where their objects were found.

    ``owner`` knows the servers: ``route(call)`` finds a way for a call whose object's place is not
    known, ``arm(deadline)`` sees to it that the calls whose deadline has passed are ended then,
    ``withdraw(call)`` hears of cancelled callers, and ``told(call)`` of calls that nobody awaits.
    What the owner puts as the ``line`` of a call has
    ``leave(call)``, for its end, and ``note_answer(call, connection)``.

    ``codecs`` knows the messages. ``name_of(object_type) -> str`` and
    ``codec_of(message) -> MessageCodec`` are asked once for each class,
    ``reply_decoder(message, object_type, returns)`` where the message's class does not tell its
    reply, ``context_of(turn) -> bytes`` for what a nested call carries, and
    ``context_with(turn, values, trace) -> bytes`` if it carries other values than the turn, or the
    trace of a span;
    ``unencodable(message, error)`` and ``undecodable(call, error)`` make errors.

    ``clock`` replaces the system's, in seconds: deadlines are times of it.
    """

    cdef object _owner
    cdef object _codecs
    cdef object _loop
    cdef public str why_not_open             # what a call is told while there is no loop
    cdef object _clock                       # None: the system's; else a callable
    cdef bint _takes_short_cuts
    cdef readonly double default_timeout     # seconds
    cdef readonly double armed_for           # the earliest deadline that the owner's timer watches
    cdef object _tracer                      # None: nobody traces; the others are parts of it
    cdef object _get_context
    cdef object _span_key
    cdef object _unsampled_span              # the last that was seen
    cdef dict _type_names                    # class or name -> checked type name
    cdef dict _codec_of                      # message class -> MessageCodec
    cdef Routes _routes

    def __cinit__(
        self,
        owner,
        codecs,
        *,
        double default_timeout=limits.DEFAULT_TIMEOUT,
        Py_ssize_t route_limit=limits.ROUTE_LIMIT,
        clock=None,
    ):
        self._owner = owner
        self._codecs = codecs
        self._loop = None
        self._takes_short_cuts = False
        self.why_not_open = NOT_OPEN
        self._clock = clock
        self.default_timeout = default_timeout
        self.armed_for = INFINITY
        self._type_names = {}
        self._codec_of = {}
        self._routes = Routes(route_limit)

    @property
    def route_limit(self):
        """Of how many objects the caller remembers where they live."""
        return self._routes.limit

    @property
    def loop(self):
        """The event loop on which calls are made; ``None`` while the client is not open."""
        return self._loop

    @loop.setter
    def loop(self, loop):
        self._loop = loop
        self._takes_short_cuts = loop is not None and takes_short_cuts(loop)

    @property
    def tracer(self):
        """What makes the spans of calls, in a program that traces: it has ``begin_call(call)``,
        ``get_context()`` with the current span under ``span_key``, and ``unsampled``. Else
        ``None``.
        """
        return self._tracer

    @tracer.setter
    def tracer(self, tracer):
        self._tracer = tracer
        if tracer is not None:
            self._get_context, self._span_key = tracer.get_context, tracer.span_key
            self._unsampled_span = tracer.unsampled.span

    def check_loop(self):
        """Make sure that the client is open, and used where it was opened. Elsewhere a call would
        run, and its reply be lost.

        :raises RuntimeError: it is not.
        """
        if self._loop is None:
            raise RuntimeError(self.why_not_open)
        if get_running_loop() is not self._loop:
            raise RuntimeError(ELSEWHERE)

    def send(self, object_type, id, message, /, *, timeout=None, returns=None):
        """Send a message to an object, and await the reply: see :meth:`rio.Client.send`."""
        cdef Call call = self._new_call()
        cdef double now
        try:
            now = self._prepare(call, object_type, id, message, timeout, returns)
            self._nest(call)
            self._send(call, now)
        except Exception as error:
            call.fail(error)  # raised here, it would part the caller from the calls before
        return call

    def tell(self, object_type, id, message, /, *, timeout=None):
        """Send a message whose answer nobody awaits: see :meth:`rio.Client.tell`."""
        cdef Call call = self._new_call()
        cdef double now = self._prepare(call, object_type, id, message, timeout, None)
        call._turn = running_turn()
        call._is_told = True
        if carries_values or self._tracer is not None:
            call.context = self._carry(call)
        self._send(call, now)
        self._owner.told(call)

    def learn(self, str type_name not None, str id not None, ClientHalf connection not None):
        """Remember where an object lives."""
        self._routes.remember(type_name, id, connection)

    def find(self, str type_name not None, str id not None):
        """The connection on which an object was last found, or ``None``."""
        return self._routes.find(type_name, id)

    def forget(self, str type_name not None, str id not None):
        """Forget where an object lives."""
        self._routes.forget(type_name, id)

    def now(self):
        """Seconds on the clock of deadlines."""
        return self._now()

    def rearm(self, double deadline):
        """The owner's timer now watches ``deadline``; ``inf``: nothing."""
        self.armed_for = deadline

    cdef Call _new_call(self):
        cdef Call call
        if self._loop is None or get_running_loop() is not self._loop:
            self.check_loop()
        call = Call.__new__(Call)
        call.caller = self
        call._loop = self._loop
        return call

    cdef double _prepare(self, Call call, object_type, id, message, timeout, returns) except? -1:
        # Returns the present moment.
        cdef double now
        type_name = self._type_names.get(object_type)
        call.type_name = <str?>(self._new_name(object_type) if type_name is None else type_name)
        call.id = <str>id if type(id) is str else plain_id(id)
        check_id(call.id)
        self._encode(call, object_type, message, returns)
        now = self._now()
        call.deadline = now + (self.default_timeout if timeout is None else <double>timeout)
        return now

    cdef double _now(self) except? -1:
        return system_clock() if self._clock is None else <double>self._clock()

    cdef int _encode(self, Call call, object_type, message, returns) except -1:
        # Write the payload, and note how the reply is read.
        found = self._codec_of.get(type(message))
        cdef MessageCodec codec = <MessageCodec?>(
            self._new_codec(message) if found is None else found
        )
        call.message_name = str.__str__(message.type_name) if codec.name is None else codec.name
        try:
            call.payload = <bytes?>codec.encode(message)
        except Exception as error:
            raise self._codecs.unencodable(message, error) from error
        call._decode = codec.decode
        if returns is not None or codec.dynamic_reply:
            call._decode = self._codecs.reply_decoder(message, object_type, returns)
        call.repeatable = codec.repeatable
        return 0

    cdef int _nest(self, Call call) except -1:
        # A call that is made during a turn ends with it, and carries its chain.
        cdef Turn turn = running_turn()
        call._turn = turn
        if turn is not None:
            if turn.deadline != 0 and turn.deadline < call.deadline:
                call.deadline = turn.deadline
            if not carries_values and self._tracer is None:
                call.context = turn.nested_context(self._codecs.context_of)
        if carries_values or self._tracer is not None:
            call.context = self._carry(call)
        return 0

    cdef object _carry(self, Call call):
        # The context of a call in a program whose values travel with calls, or that traces.
        cdef Turn turn = None if call._is_told else call._turn
        values = get_value(carried_values, None)
        if self._tracer is not None:
            if not self._is_unsampled():
                call.span = self._tracer.begin_call(call)
                trace = NOT_SAMPLED if call.span is None else call.span.trace
                return self._codecs.context_with(turn, values, trace)
            if turn is None or turn.span is not self._tracer.unsampled:
                if turn is None and values is None:
                    return ONLY_UNSAMPLED
                return self._codecs.context_with(turn, values, NOT_SAMPLED)
        if turn is None:
            return None if values is None else values.context
        if values is turn.values:
            return turn.nested_context(self._codecs.context_of)
        return self._codecs.context_with(turn, values, None)

    cdef bint _is_unsampled(self) except -1:
        # Whether the code that makes a call is known not to be sampled.
        cdef PyObject* found = PyDict_GetItemWithError(self._get_context(), self._span_key)
        if found is NULL:
            return False
        span = <object>found
        if span is self._unsampled_span:
            return True
        context = span.get_span_context()
        if context.trace_flags & 1 or not context.is_valid:
            return False
        self._unsampled_span = span    # the next call is most often made by the same code
        return True

    cdef int _send(self, Call call, double now) except -1:
        cdef ClientHalf connection
        if not call.deadline > now:
            raise too_late(call)
        if call.deadline < self.armed_for:
            self.armed_for = call.deadline
            self._owner.arm(call.deadline)
        connection = self._routes.find(call.type_name, call.id)
        if connection is None:
            self._owner.route(call)
            return 0
        call._is_routed = True
        return connection._submit(call, now)

    cdef _new_name(self, object_type):
        name = self._codecs.name_of(object_type)
        self._type_names[object_type] = name
        return name

    cdef _new_codec(self, message):
        codec = self._codecs.codec_of(message)
        self._codec_of[type(message)] = codec
        return codec


cdef inline uint64_t milliseconds(double seconds) noexcept nogil:
    # To the nearest, and at least 1, since 0 would leave the time to the server.
    if not seconds >= 0.001:
        return 1
    return <uint64_t>(seconds * 1000.0 + 0.5) if seconds < 1e12 else <uint64_t>1000000000000000u


cdef object too_late(Call call):
    # The error of a call without any time.
    if call.deadline != call.deadline:
        return ConfigurationError("timeout= takes a number of seconds, got nan")
    return Expired(
        f"the time for {call.message_name} to {call.type_name}/{call.id} was over before it was"
        " sent"
    )


cdef str plain_id(id):
    # An id that is no plain string: a member of a StrEnum, say.
    if not isinstance(id, str):
        raise BadIdentity(f"object id must be a str, got {type(id).__name__}: {id!r:.200}")
    return str.__str__(id)


cdef inline int check_id(str id) except -1:
    cdef Py_ssize_t size
    try:
        PyUnicode_AsUTF8AndSize(id, &size)
    except UnicodeEncodeError as error:
        raise BadIdentity(f"object id {id!r} is not valid Unicode text: {error}") from error
    if size == 0 or size > limits.MAX_ID:
        raise BadIdentity(f"an object id has 1 to {limits.MAX_ID} bytes, {id[:32]!r} has {size}")
    return 0
