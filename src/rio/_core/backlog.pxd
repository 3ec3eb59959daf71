# cython: language_level=3
"""What the dispatcher needs of the requests that wait for the loop."""


cdef class Backlog:
    cdef readonly Py_ssize_t size    # requests
    # sender -> deque of its requests; group -> Backlog of those of its senders
    cdef dict _lines
    cdef object _newcomers           # deque of the owners of lines from which nothing was taken yet
    cdef object _others              # deque of the owners whose turn comes again
    cdef int _favoured               # newcomers that went before the others, in a row

    cdef inline bint has(self, owner) except -1:
        # Whether requests of this sender, or group, are here.
        return owner in self._lines

    cpdef Py_ssize_t turns_until(self, sender, group=*)
    cpdef put(self, sender, request, group=*)
    cpdef take(self)
