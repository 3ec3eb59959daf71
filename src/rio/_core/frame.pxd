# cython: language_level=3
"""What the other compiled modules need of frames: the buffers that they are read from and written
into.
"""

from libc.stdint cimport uint8_t, uint64_t

from rio._core.msgpack cimport Cursor


cdef class ReceiveBuffer:
    cdef uint8_t* _data
    # the FrameReader whose unread bytes lie in it, if any; not counted as a reference
    cdef void* _reader


cdef class FrameReader:
    cdef ReceiveBuffer _shared
    # where unread bytes lie that are not in _shared; None: nowhere else. An object, because whoever
    # holds a memoryview of it keeps it.
    cdef bytes _own
    cdef uint8_t* _data         # that of the two in which they lie
    cdef Py_ssize_t _capacity   # its size
    cdef Py_ssize_t _start      # the first byte that was not handed out as part of a frame
    cdef Py_ssize_t _end        # one past the last byte received
    cdef bint _is_used          # something was received since relax() was last called
    cdef public Py_ssize_t limit

    cpdef int advance(self, Py_ssize_t size) except -1
    cdef int _next(self, Cursor* body) except -1
    cdef Py_ssize_t _announced(self) noexcept
    cdef Py_ssize_t _copy(self, const uint8_t* data, Py_ssize_t size) except -1
    cdef int _make_room(self, Py_ssize_t least, bint alone) except -1
    cdef Py_ssize_t _own_size(self) noexcept
    cdef int _move_in(self, Py_ssize_t need) except -1
    cdef int _move_out(self, Py_ssize_t size) except -1
    cdef void _free(self) noexcept
    cpdef int relax(self) except -1


cdef class FrameWriter:
    cdef uint8_t* _data
    cdef Py_ssize_t _capacity
    cdef Py_ssize_t _size
    cdef list _parts            # bytes that leave before those in _data; None: there are none
    cdef Py_ssize_t _parted     # how many
    cdef bint _is_used          # something was written since relax() was last called

    cdef inline bint _waits(self):
        return self._size != 0 or self._parts is not None

    cdef inline Py_ssize_t _count(self) noexcept:
        return self._parted + self._size

    cpdef int put_response(self, uint64_t id, bytes payload) except -1
    cdef uint8_t* _begin(self, Py_ssize_t room, Py_ssize_t payload_size) except NULL
    cdef int _end(self, uint8_t* at, bytes payload) except -1
    cdef int _grow(self, Py_ssize_t size) except -1
    cdef bytes _take_data(self)
    cdef int _send_to(self, object transport) except -1
    cpdef int relax(self) except -1
