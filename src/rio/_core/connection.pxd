# cython: language_level=3
"""What the two halves of a connection share, for the modules that hold them."""

from libc.stdint cimport uint64_t

from rio._core.frame cimport FrameReader, FrameWriter
from rio._core.spin cimport Spinner
from rio._core.wire cimport Frame


cdef class Connection:
    cdef readonly FrameReader reader
    cdef readonly FrameWriter writer
    cdef public object transport    # anything with write(bytes); None once it is gone
    cdef public Spinner spinner     # what each write and read of the transport is told; or None
    # bytes that a frame may have which is sent: the peer's limit too, once it has told it
    cdef public Py_ssize_t send_limit
    cdef public bint held           # what arrives waits; the owner calls take_rest() afterwards
    cdef bint _is_put_off           # what has arrived waits until others have had their turn
    cdef public bint is_encrypted   # what arrives is decrypted before it is handed over
    cdef readonly uint64_t written  # bytes that the transport was given
    cdef readonly uint64_t received  # bytes that the transport has read
    cdef bint _flush_is_due
    cdef bint _is_receiving
    cdef list _received             # what came meanwhile; None: nothing

    cdef inline int _note_arrived(self, Py_ssize_t size) except -1:
        # The transport has read so many bytes into the reader's free room.
        cdef Spinner spinner
        if self.spinner is not None:
            spinner = self.spinner  # which its clock might take from this connection
            spinner.note_read()
        self.received += size
        self.reader.advance(size)
        return 0

    cdef int _take_in(self, bytes data) except -1
    cdef int _read(self) except -1
    cdef int _frame(self, Frame* frame) except -1
    cdef int _leave_to_owner(self, const Frame* frame) except -1
    cdef int _flush_soon(self) except -1
    cdef int _flush(self) except -1
