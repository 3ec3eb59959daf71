# cython: language_level=3
"""How the dispatcher runs a coroutine."""

cdef bint takes_short_cuts(object loop) except -1
cdef bint is_in_a_task(object loop) except -1
cdef dict options_of_task(object loop, str name)
cdef object start(
    object coroutine, object loop, dict options, object context, bint* has_ended
)
cdef object start_in(object coroutine, object loop, str name, object context)
