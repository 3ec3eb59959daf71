# cython: language_level=3
"""What the classes of the dispatcher hold, and the parts that the client's half needs: the turn in
which a nested call is made.
"""

from libc.stdint cimport uint64_t

from rio._core.backlog cimport Backlog
from rio._core.budget cimport Budget, Usage
from rio._core.connection cimport Connection
from rio._core.frame cimport ReceiveBuffer
from rio._core.wire cimport Frame, Request


cdef class Method:
    cdef readonly object handler     # the rio.objects.handler.Handler that this row was made from
    cdef readonly str name           # the message's name on the wire
    cdef readonly bint takes_turn    # no: the runtime answers it, whatever the object does
    cdef object _function            # called as function(instance, message[, app_data])
    cdef object _decode              # bytes -> message; raises what the codec raises
    cdef object _encode              # reply -> bytes
    # a reply of exactly this class needs no further look; None: every reply is checked
    cdef object _reply_class
    cdef bint _is_async
    cdef bint _takes_app_data
    cdef double _timeout             # seconds; 0: none of its own
    cdef dict _task_options          # the keywords with which its task is made


cdef class TypeTable:
    cdef readonly str type_name
    cdef dict _methods               # message name -> Method
    cdef readonly dict mailboxes     # id -> Mailbox


cdef class Mailbox:
    cdef readonly TypeTable table
    cdef readonly str id
    cdef public object instance      # the user's object; None until it is made
    cdef readonly Turn turn          # the turn that runs now
    cdef object _waiting             # a deque of turns; None while nothing waits
    cdef readonly bint open          # whether turns may start
    # no further turn starts; the runtime is told when the running one has ended
    cdef public bint closing
    # when the last turn that is a use of the object started; -inf: none has
    cdef public double used_at
    cdef readonly bint used_again    # there was more than one
    cdef bint _is_put_off            # the turns that wait go on when the loop has time

    # What the runtime notes of the object. It stands here because it takes less time and memory so.
    cdef public uint64_t token       # the fencing token of the claim; 0 before it
    # its memory may be wrong: the node drops it and runs no shutdown hook
    cdef public bint failed
    # another activation owns the object: there is no placement to release
    cdef public bint superseded
    cdef public bint shutting_down   # its shutdown hook runs
    # its deactivation has begun, or it was dropped: it can own no timers and tasks
    cdef public bint ended
    cdef public double keep_until    # until when it stays in memory, idle or not
    # bytes of its managed states, as they were last loaded or saved
    cdef public uint64_t weight

    cdef inline bint _is_free(self) noexcept:
        # Whether a turn may start now, before all others.
        return self.turn is None and self.open and self._waiting is None and not self.closing

    cdef int _end_lifecycle(self) except -1
    cdef int _wait(self, Turn turn) except -1
    cdef int _wait_first(self, Turn turn) except -1
    cdef Turn _next(self)
    cdef int _leave(self, Turn turn) except -1
    cdef list _take_of(self, TurnCaller caller)


cdef class TurnCaller:
    cdef public bint uses            # whether its turns count as a use of their object
    cdef bint _is_full               # it does not take its answers: none of its turns starts
    # It is another process: what the node holds for it counts. Of the requests of this process,
    # bytes would wait here in any case.
    cdef bint _is_peer
    cdef Py_ssize_t _waiting         # bytes of its requests that do not run yet

    cdef int _reply(self, Turn turn, bytes payload) except -1
    cdef int _fail(self, Turn turn, object error) except -1
    cdef int _keep(self, Turn turn) except -1
    cdef int _forget(self, Turn turn) except -1
    cdef int _hold(self, Turn turn) except -1
    cdef Py_ssize_t _bytes_held(self) except? -1


cdef class Turn:
    cdef readonly Dispatcher dispatcher
    cdef readonly Mailbox mailbox    # None until its object is found
    cdef readonly Method method      # None: a lifecycle hook
    cdef readonly TurnCaller caller  # None: a lifecycle hook
    cdef readonly TypeTable table
    cdef readonly str id             # of the object
    cdef readonly uint64_t request_id  # the caller's number for it
    cdef bytes _payload              # None once the handler has begun
    cdef readonly bytes context      # what travels with the call, or None
    cdef readonly double deadline    # on the dispatcher's clock
    # unique among the turns of this process and, being started at random, of the cluster
    cdef readonly uint64_t number
    cdef object _task                # the handler's task once it had to wait
    cdef readonly bint finished
    cdef double _since               # when it was put off; inf: it may wait until its deadline
    cdef bint _is_in_flight          # it did not end at once: dispatcher and caller hold it
    cdef bint _abandoned             # nobody waits for the answer
    cdef bint _expired               # cancelled because the deadline passed
    cdef bint _is_cut_short          # cancelled to let its object leave
    cdef readonly double arrived     # when its request came, on the dispatcher's clock
    # its span; that of what is not sampled, also once it has ended; None: nobody traces it
    cdef readonly object span
    cdef object _nested_context      # what nested calls carry, made when the first one asks
    cdef readonly object values      # what came with it for the ContextVars of the program

    cdef int _open_span(self) except -1
    cdef bint _is_sampled(self) noexcept
    cdef int _note_failure(self, object error) except -1
    cdef int _close_span(self) except -1
    cdef int _fail_plainly(self) noexcept
    cdef int _answer_cancelled(self, object error) except -1
    cdef int _give_up(self) except -1
    cdef int _withdraw(self) except -1
    cdef object _lease_is_lost(self)
    cdef object _late_error(self)
    cdef object _expiry(self)
    cdef int _drop_payload(self) except -1
    cdef int _end(self) except -1


cdef class RemoteCaller(TurnCaller):
    cdef readonly ServerHalf connection
    cdef Usage _usage                # that of its connection
    cdef dict _turns                 # request id -> Turn, for those that did not end at once
    cdef dict _held                  # those of them that start once the client takes its answers

    cdef int _belong_to(self, ServerHalf connection) except -1
    cdef int _set_aside(self, Turn turn) except -1
    cdef int _go_on(self) except -1
    cdef int _reply_if_there_is_room(self, Turn turn, bytes payload) except -1
    cdef bint _has_room(self, Budget budget, Py_ssize_t size) except -1
    cdef bint _may_hold(self, Budget budget, Py_ssize_t more) except -1


cdef class ServerHalf(Connection):
    cdef readonly Dispatcher dispatcher
    cdef RemoteCaller _caller
    cdef public bint accepted        # the handshake is over: requests are taken
    cdef public bint is_node         # its peer is one
    # what its client uses over all of its connections; of a node, it does not matter
    cdef Usage _usage
    cdef public object sift_context  # what is believed of what its calls carry; None: all of it
    cdef public object rights        # what its peer may send; None: everything
    cdef public object authorize     # is asked before each of its calls; None: nobody is
    cdef readonly uint64_t last_request  # the highest request id that was read
    cdef TypeTable _table            # what the last request named; None: nothing yet
    cdef Method _method
    cdef bint _reading
    # seconds: what is read now may have arrived so much earlier
    cdef double _late
    cdef double _held_at             # when it began to be held
    cdef readonly bint is_remote     # its bytes wait somewhere before they are read
    cdef int _frames                 # how many this read has brought so far
    cdef double _read_until          # when others have their turn
    cdef Py_ssize_t _unsent          # bytes that its client does not take, as last counted
    cdef uint64_t _counted_at        # how many had been written then
    cdef bint _awaits_frame          # a frame has begun and is not whole
    cdef double _frame_age           # seconds for which it was read, or could have been
    cdef Py_ssize_t _reserved        # its size, if it is a large one for which there is room
    # there is no room for the frame that has begun: nothing is read
    cdef readonly bint is_short_of_room

    cdef int _take(self, Frame* frame) except -1
    cdef int _request(self, Frame* frame) except -1
    cdef bint _names_the_same(self, const Request* request) except -1
    cdef int _find(self, const Request* request) except -1
    cdef int _cancel(self, uint64_t request_id) except -1
    cdef int _note_delay(self, double now) except -1
    cdef bint _may_read(self) except -1
    cdef int _read_frames(self) except -1
    cdef int _put_off(self) except -1
    cdef int _read_on(self, double until) except -1
    cdef int _note_frame(self) except -1
    cdef bint _has_room_for(self, Py_ssize_t size) noexcept
    cdef int _reserve(self, Py_ssize_t size) except -1
    cdef int _end_frame(self) except -1
    cdef int _look_at_frame(self, double passed) except -1


cdef class Dispatcher:
    # the Python owner: every slow case leaves through one of its methods
    cdef readonly object runtime
    cdef object _loop
    cdef object _context             # that of the node; each turn has a copy of it
    cdef public object app_data
    cdef readonly double lease_until  # turns start, and replies leave, only before this moment
    cdef public Py_ssize_t waiting_limit      # for each object
    cdef public Py_ssize_t in_flight_limit    # for the node
    cdef public double max_timeout            # seconds, of a request from a connection
    cdef readonly dict tables        # type name -> TypeTable
    # Ordered sets, so that everything happens in the same order each time: the connections, the
    # turns that did not end at once, and the mailboxes whose turns wait for the lease.
    cdef readonly dict connections
    cdef dict _in_flight
    cdef dict _paused
    cdef object _tracer              # None: nobody traces; the others are parts of it
    cdef object _attach
    cdef object _unsampled
    cdef object _unsampled_context   # as that of the node, for turns that are not sampled
    cdef object _clock               # None: the system's; else a callable
    cdef ReceiveBuffer _receive_buffer  # of all connections
    # Seconds for which requests run as they are read, one after the other. While they do, nothing
    # else runs: no renewal of the lease, no answer of a storage, no CANCEL.
    cdef public double loop_budget
    cdef Backlog _backlog
    cdef readonly Budget budget      # of the bytes that wait here
    # bytes of the large frames that have begun, and how many there may be
    cdef readonly Py_ssize_t arriving
    cdef public Py_ssize_t arriving_limit
    cdef double _recounted_at
    cdef Backlog _unread             # connections of clients that have sent more than others
    cdef Usage _reader               # from whom was read last
    cdef double _switched_at         # when that became another one
    cdef double _latest              # a moment ago
    cdef Usage _prompt               # who was the last to keep up, and when that was
    cdef double _prompt_at
    cdef double _others_prompt_at    # when somebody else was the last
    cdef bint _is_catching_up        # a turn of the loop will let those go on that are behind
    cdef double _caught_up_at        # when the last one has
    cdef double _earned              # the part of the time since then that is theirs, in seconds
    # since when, and until when, requests have run without a pause for the loop, and how many
    cdef double _busy_since
    cdef double _busy_until
    cdef Py_ssize_t _ran
    cdef bint _is_new_read           # no request of this read was seen yet
    cdef double _cost                # seconds for which a request keeps the loop, about
    cdef double _swept_at            # inf: never
    cdef double _looked_at           # when the frames that have begun were looked at
    # for how long the loop stood still before this turn and the last one; 0: it did not
    cdef double _stall
    cdef uint64_t _last_turn
    # connections with answers to write at the end of the loop's turn
    cdef list _unflushed
    cdef readonly uint64_t calls     # requests taken
    cdef readonly uint64_t failures  # requests answered with an error
    cdef readonly uint64_t fenced    # turns or replies held back by the lease

    cdef double _now(self) except? -1
    cdef double _loop_time(self, double now) noexcept
    cdef TypeTable _type_table(self, str type_name)
    cdef Method _method(self, TypeTable table, str name)
    cdef int _flush_soon(self, ServerHalf connection) except -1
    cdef double _note_stall(self, double now) except? -1
    cdef int _keep(self, Turn turn) except -1
    cdef bint _has_time(self, double now, owner) except -1
    cdef bint _is_contended(self, double now) noexcept
    cdef double _slice_of(self, Usage usage, double now) noexcept
    cdef int _note_slice(self, ServerHalf connection) except -1
    cdef bint _is_behind(self, Usage usage) except -1
    cdef double _slice_to_catch_up(self, double now) except? -1
    cdef int _read_later(self, ServerHalf connection) except -1
    cdef int _put_off(self, Turn turn, double now) except -1
    cdef int _line_up(self, Turn turn, double since) except -1
    cdef void _note_gap(self, double now) noexcept
    cdef int _put_off_rest(self, Mailbox mailbox) except -1
    cdef int _catch_up_soon(self) except -1
    cdef void _begin_to_serve(self, double now) noexcept
    cdef int _read_on(self, double until) except -1
    cdef int _serve_backlog(self, double until) except -1
    cdef int _serve(self, object waiting, double now) except -1
    cdef int _note_cost(self, double now) except -1
    cdef object _why_not_keep(self, Turn turn)
    cdef int _recount(self) except -1
    cdef object _why_not_hold(self, Turn turn)
    cdef int _admit(self, Turn turn) except -1
    cdef int _start(self, Turn turn) except -1
    cdef int _observe(self, Turn turn, double now) except -1
    cdef object _context_of(self, Turn turn)
    cdef int _enter_span(self, Turn turn) except -1
    cdef int _refuse_payload(self, Turn turn, object error) except -1
    cdef object _payload_error(self, Turn turn, object error)
    cdef int _begin(self, Turn turn, double now) except -1
    cdef object _invoke(self, Turn turn, object message)
    cdef int _settle(self, Turn turn, object result, object error) except -1
    cdef bint _is_over(self, Turn turn) except -1
    cdef int _answer_plainly(self, Turn turn, object problem) except -1
    cdef int _answer(self, Turn turn, object result) except -1
    cdef int _answer_error(self, Turn turn, object error) except -1
    cdef int _refuse_reply(self, Turn turn, object result, object problem) except -1
    cdef int _pause(self, Turn turn) except -1
    cdef int _expire(self, Turn turn) except -1
    cdef int _pump(self, Mailbox mailbox) except -1


# a ContextVar[Turn]: that of the async handler or hook to which the running code belongs
cdef object current_turn
cdef object carried_values
cdef bint carries_values
cdef Turn running_turn()
cdef bint is_in_a_plain_handler() noexcept
