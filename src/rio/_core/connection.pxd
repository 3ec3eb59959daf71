# cython: language_level=3
"""What the two halves of a connection share, for the modules that hold them."""

from rio._core.frame cimport FrameReader, FrameWriter
from rio._core.wire cimport Frame


cdef class Connection:
    cdef readonly FrameReader reader
    cdef readonly FrameWriter writer
    cdef public object transport    # anything with write(bytes); None once it is gone
    cdef bint _flush_is_due

    cdef int _read(self) except -1
    cdef int _frame(self, Frame* frame) except -1
    cdef int _leave_to_owner(self, const Frame* frame) except -1
    cdef int _flush_soon(self) except -1
    cdef int _flush(self) except -1
