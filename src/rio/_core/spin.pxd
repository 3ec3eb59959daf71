# cython: language_level=3
"""What keeps an event loop awake, for the connections that tell it what they read and write."""


cdef class Spinner:
    cdef object _clock              # None: the system's; else a callable
    cdef object _loop               # on which it spins; None: it is not open
    cdef object _handle             # what stands in the loop's queue; None: it does not spin
    cdef object _context            # in which the loop calls it
    cdef bint _was_written          # since the loop's last turn
    cdef bint _was_answered         # something was read in time since the last write
    cdef double _until              # it stays awake
    cdef int _pause                 # writes that it lets pass before it spins again
    cdef int _writes_to_pass        # of those, how many are left

    cpdef int note_write(self) except -1
    cpdef int note_read(self) except -1
    cdef int _spin(self) except -1
    cdef double _now(self) except? -1
