# cython: language_level=3
"""What the dispatcher needs of the requests that wait for the loop."""


cdef class Backlog:
    cdef readonly Py_ssize_t size    # requests
    cdef dict _lines                 # sender -> deque of its requests
    cdef object _newcomers           # deque of the senders of whom nothing was taken yet
    cdef object _others              # deque of the senders whose turn comes again
    cdef int _favoured               # newcomers that went before the others, in a row

    cpdef Py_ssize_t waiting_of(self, sender)
    cpdef put(self, sender, request)
    cpdef take(self)
