# cython: language_level=3
"""Tasks that make their first step at once, and from which ``sys.exit()`` and Ctrl-C do not escape.

A task that the loop starts in its next turn costs more than all the rest of a short call. Most
handlers end in their first step, or would if they were started at once.
"""

import asyncio
import os
import sys

from cpython.contextvars cimport PyContext_CheckExact, PyContext_Enter, PyContext_Exit

cimport cython

from rio._core.hidden cimport hide

from rio.errors import HandlerFailed


cdef extern from "Python.h":
    ctypedef struct PyObject:
        pass
    ctypedef struct AsyncMethods "PyAsyncMethods":
        int (*am_send)(PyObject*, PyObject*, PyObject**) except -1
    ctypedef struct TypeWithSend "PyTypeObject":
        AsyncMethods* tp_as_async
    int PyIter_Send(object iterator, object value, PyObject** result) except -1
    object PyObject_Call(object function, tuple args, dict options)


cdef enum:
    RETURNED = 0            # what PyIter_Send says of a coroutine that has ended


cdef object Task = asyncio.Task
cdef bint EAGER = sys.version_info >= (3, 12)
# In a Python on which the tests have not run, the tasks of asyncio may wait in another way.
cdef bint KNOWN = sys.version_info < (3, 16)
cdef dict current_tasks = {} if EAGER else asyncio.tasks._current_tasks     # by loop
cdef object enter_task = asyncio.tasks._enter_task
cdef object leave_task = asyncio.tasks._leave_task
cdef object current_task = asyncio.current_task

cdef object NOTHING = object()      # the result of a coroutine that has not returned


cdef bint takes_short_cuts(object loop) except -1:
    # Whether tasks are stepped where that saves a turn of the loop. In its debug mode the loop
    # watches each step, and RIO_PLAIN_TASKS=1 is for those who suspect this.
    return KNOWN and not loop.get_debug() and os.environ.get("RIO_PLAIN_TASKS") != "1"


cdef bint is_in_a_task(object loop) except -1:
    # Whether the running code is that of a task.
    if EAGER:
        return current_task(loop) is not None
    return current_tasks.get(loop) is not None


cdef dict options_of_task(object loop, str name):
    # The keywords with which `start` makes a task.
    cdef dict options = {"loop": loop, "name": name}
    if EAGER:
        options["eager_start"] = True
    return options


cdef object start(
    object coroutine, object loop, dict options, object context, bint* has_ended
):
    # Run a coroutine up to the first thing that it waits for. Returns its result if it has ended,
    # else its task. It raises what the coroutine raised.
    cdef Guard guard = Guard.__new__(Guard)
    guard._coroutine = coroutine
    task = start_task(guard, loop, options, context)
    if guard._result is not NOTHING:
        has_ended[0] = True
        return guard._result
    has_ended[0] = task.done()
    return task.result() if has_ended[0] else task


cdef object start_in(object coroutine, object loop, str name, object context):
    # The same in a context of its own. Returns the task, which may have ended.
    check_context(context)
    cdef Guard guard = Guard.__new__(Guard)
    guard._coroutine = coroutine
    return start_task(guard, loop, options_of_task(loop, name), context)


def start_now(coroutine, *, loop not None, str name not None, context not None):
    """A task that has made its first step, and may have ended. Nothing guards the loop from it."""
    check_context(context)
    return start_task(coroutine, loop, options_of_task(loop, name), context)


cdef int check_context(context) except -1:
    if not PyContext_CheckExact(context):   # CPython 3.13.0 would take the task for current
        raise TypeError(f"a context is a contextvars.Context, got {context!r:.200}")
    return 0


cdef object start_task(coroutine, loop, dict options, context):
    options["context"] = context    # read before anything runs that may start another task
    try:
        if EAGER:
            return PyObject_Call(Task, (coroutine,), options)
        return start_eagerly(coroutine, loop, options, context)
    finally:
        options["context"] = None


# --- a handler's coroutine ------------------------------------------------------------------------

@cython.final
@cython.freelist(64)
cdef class Guard:
    """A handler's coroutine, from which ``SystemExit`` and ``KeyboardInterrupt`` do not escape:
    asyncio would end the whole loop with them.
    """

    cdef object _coroutine
    cdef object _result        # NOTHING until it has returned

    def __cinit__(self):
        self._result = NOTHING

    def __iter__(self):
        return self

    def __await__(self):
        return self

    def __next__(self):
        return self.send(None)

    def send(self, value):
        try:
            return self._coroutine.send(value)
        except (SystemExit, KeyboardInterrupt) as error:
            raise exit_error(error) from error

    def throw(self, *error):
        try:
            return self._coroutine.throw(*error)
        except (SystemExit, KeyboardInterrupt) as error:
            raise exit_error(error) from error

    def close(self):
        self._coroutine.close()

    def __getattr__(self, name):
        # cr_frame and the like, so that the stack of a task can be read
        return getattr(self._coroutine, name)


cdef int guard_send(PyObject* guard, PyObject* value, PyObject** result) except -1:
    # Python looks for this before `send`: a handler that ends hands its result over without a
    # StopIteration.
    cdef int sent
    try:
        sent = PyIter_Send((<Guard>guard)._coroutine, <object>value, result)
    except (SystemExit, KeyboardInterrupt) as error:
        raise exit_error(error) from error
    if sent == RETURNED:
        (<Guard>guard)._result = <object>result[0]
    return sent


(<TypeWithSend*>Guard).tp_as_async.am_send = guard_send
hide(Guard)


cdef object exit_error(error):
    if isinstance(error, KeyboardInterrupt):
        return HandlerFailed("the handler was ended by a KeyboardInterrupt", [
            "KeyboardInterrupt", ""
        ])
    return HandlerFailed(f"the handler called sys.exit({error.code!r})", ["SystemExit", ""])


# --- what Task(eager_start=True) does, for Python 3.11 --------------------------------------------

@cython.final
@cython.freelist(64)
cdef class FirstStep:
    """Stands in for ``loop.call_soon`` while a task is made, and keeps what the task would have had
    called.
    """

    cdef object step

    def __call__(self, step, *, context=None):
        self.step = step


hide(FirstStep)


cdef object start_eagerly(coroutine, loop, dict options, context):
    # An ordinary task whose first step is made now and not in the loop's next turn.
    cdef FirstStep first_step = FirstStep.__new__(FirstStep)
    try:
        loop.call_soon = first_step
    except AttributeError:
        return PyObject_Call(Task, (coroutine,), options)     # a loop that takes no attributes
    try:
        task = PyObject_Call(Task, (coroutine,), options)
    finally:
        del loop.call_soon
    step = first_step.step
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
