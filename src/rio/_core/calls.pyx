# cython: language_level=3
"""One call on its way through a client (encode, find the connection, write), and its answer on the
way back (match, decode, wake the caller).

What is rare (no connection yet, an error, a cancelled caller) leaves through a method of the Python
owner.
"""

import asyncio
from collections import OrderedDict, deque
from itertools import chain

from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_GET_SIZE
from cpython.contextvars cimport get_value
from cpython.unicode cimport PyUnicode_AsUTF8AndSize
from libc.stdint cimport uint8_t, uint64_t

cimport cython

from rio._core cimport limits
from rio._core.clock cimport system_clock
from rio._core.connection cimport Connection
from rio._core.dispatch cimport Turn, carried_values, carries_values, running_turn
from rio._core.frame cimport ReceiveBuffer
from rio._core.msgpack cimport bytes_of
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
    object PyObject_Call(object function, tuple args, dict options)
    int PyContext_Enter(object context) except -1
    int PyContext_Exit(object context) except -1


cdef object Future = asyncio.Future
cdef object get_running_loop = asyncio._get_running_loop      # None where none runs
# Called as functions, these save a look-up of the attribute in each call.
cdef object is_done = Future.done
cdef object set_result = Future.set_result
cdef object add_done_callback = Future.add_done_callback
cdef object remove_done_callback = Future.remove_done_callback
cdef double INFINITY = float("inf")
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

    def __init__(self, name, encode, decode, *, bint repeatable=False, bint dynamic_reply=False):
        self.name = name
        self.encode = encode
        self.decode = decode
        self.repeatable = repeatable
        self.dynamic_reply = dynamic_reply


@cython.final
@cython.freelist(256)
cdef class Call:
    """One call, with all that is needed to send it again."""

    cdef readonly object future
    cdef readonly Caller caller
    cdef readonly str type_name
    cdef readonly str id
    cdef readonly str message_name
    cdef readonly bytes payload
    cdef readonly object context      # bytes or None
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
    # where it waits for its answer, or to be written; None: nowhere
    cdef ClientHalf _connection
    cdef readonly uint64_t request_id  # 0: it was not written there
    cdef Turn _turn              # during which it is made; None: outside of any
    cdef bint _is_told                # nobody waits for the answer
    cdef bint _is_routed              # it was sent where its object was found before

    def __call__(self, future):
        """The caller gave up: its future was cancelled."""
        if self._connection is not None:
            self._connection._drop(self)
        self.caller._owner.withdraw(self)
        self._leave_line()

    @property
    def done(self):
        return self.future.done()

    @property
    def is_unwritten(self):
        """Whether it waits on its connection to be written."""
        return self._connection is not None and self.request_id == 0

    @property
    def is_awaited(self):
        """Whether anybody waits for the answer: a task, or a future such as that of a gather()."""
        callbacks = self.future._callbacks
        return callbacks is not None and len(callbacks) > 1    # the first is the call itself

    def succeed(self, value):
        """Give the caller its reply."""
        if not self.future.done():
            self.future.remove_done_callback(self)
            self.future.set_result(value)
            self._leave_line()

    def fail(self, error):
        """Give the caller an error."""
        if not self.future.done():
            self.future.remove_done_callback(self)
            self.future.set_exception(self._outcome(error))
            self._leave_line()

    cdef _outcome(self, error):
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
            self._queue = CallQueue()
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

    cdef bint _hands_over(self) noexcept:
        # Whether a server in this process takes the next call now, and not in the loop's next turn.
        return (
            self.handover is not None
            and self._handed_over < limits.HANDED_OVER
            and not self._is_handing_over
            and self.transport is not None
        )

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

    cdef int _frame(self, Frame* frame) except -1:
        cdef Call call
        if frame.kind == Kind.RESPONSE or frame.kind == Kind.ERROR:
            call = <Call>self._calls.pop(frame.id, None)
            if call is not None:
                call._connection = None
                self._take_answer(call, frame)
                return self._note_end(call) if self._is_full() else 0
        return self._leave_to_owner(frame)

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

    cdef int _take_reply(self, Call call, const Frame* frame) except -1:
        if is_done(call.future):
            return 0
        payload = bytes_of(&frame.rest)
        try:
            reply = call._decode(payload)
        except BaseException as error:
            return self._fail_unread(call, error)
        remove_done_callback(call.future, call)
        set_result(call.future, reply)
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

    cdef int _flush_soon(self) except -1:
        if not self._flush_is_due:
            self._flush_is_due = True
            self.loop.call_soon(self._flush_method)
        return 0


cdef inline int point_at(Text* text, str value) except -1:
    text.data = PyUnicode_AsUTF8AndSize(value, &text.size)
    return 0


@cython.final
cdef class Routes:
    """Where objects were found; it remembers at most ``limit`` of them.

    There is no order of use, but two halves: when the recent half is full it becomes the older one,
    and the older one before it is forgotten.
    """

    cdef dict _recent            # type name -> id -> ClientHalf
    cdef dict _older
    cdef Py_ssize_t _count       # of objects in the recent half
    cdef readonly Py_ssize_t limit

    def __init__(self, Py_ssize_t limit):
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
    ``context_with(turn, values) -> bytes`` if it carries other values than the turn;
    ``unencodable(message, error)`` and ``undecodable(call, error)`` make errors.

    ``clock`` replaces the system's, in seconds: deadlines are times of it.
    """

    cdef object _owner
    cdef object _codecs
    cdef object _loop
    cdef public str why_not_open             # what a call is told while there is no loop
    cdef object _clock                       # None: the system's; else a callable
    cdef dict _future_options                # the keywords with which a call's future is made
    cdef readonly double default_timeout     # seconds
    cdef readonly double armed_for           # the earliest deadline that the owner's timer watches
    cdef dict _type_names                    # class or name -> checked type name
    cdef dict _codec_of                      # message class -> MessageCodec
    cdef Routes _routes

    def __init__(
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
        self._future_options = {"loop": loop}

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
        return call.future

    def tell(self, object_type, id, message, /, *, timeout=None):
        """Send a message whose answer nobody awaits: see :meth:`rio.Client.tell`."""
        cdef Call call = self._new_call()
        cdef double now = self._prepare(call, object_type, id, message, timeout, None)
        call._turn = running_turn()
        call._is_told = True
        if carries_values:
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
        call.future = PyObject_Call(Future, (), self._future_options)
        add_done_callback(call.future, call)
        return call

    cdef double _prepare(self, Call call, object_type, id, message, timeout, returns) except? -1:
        # Returns the present moment.
        cdef double now
        type_name = self._type_names.get(object_type)
        call.type_name = <str>(self._new_name(object_type) if type_name is None else type_name)
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
        cdef MessageCodec codec = <MessageCodec>(
            self._new_codec(message) if found is None else found
        )
        call.message_name = <str>(message.type_name if codec.name is None else codec.name)
        try:
            call.payload = <bytes>codec.encode(message)
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
            if not carries_values:
                call.context = turn.nested_context(self._codecs.context_of)
        if carries_values:
            call.context = self._carry(call)
        return 0

    cdef object _carry(self, Call call):
        # The context of a call in a program whose values travel with calls.
        cdef Turn turn = None if call._is_told else call._turn
        values = get_value(carried_values, None)
        if turn is None:
            return None if values is None else values.context
        if values is turn.values:
            return turn.nested_context(self._codecs.context_of)
        return self._codecs.context_with(turn, values)

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
