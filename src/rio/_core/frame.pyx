# cython: language_level=3
"""Bytes in, frames out, and back. It knows no socket: a transport fills the reader's buffer and
sends what the writer holds.

A frame is a 4-byte big-endian length and that many bytes of body, one MessagePack array
(``docs/protocol.md``).
"""

from cpython.buffer cimport PyBUF_SIMPLE, PyBuffer_FillInfo, PyBuffer_Release, PyObject_GetBuffer
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from cpython.mem cimport PyMem_Free, PyMem_Malloc, PyMem_Realloc
from libc.string cimport memcpy, memmove

cimport cython

from rio.errors import FrameTooLarge


cdef enum:
    HEADER = 4
    ROOMY = 256 * 1024       # how much is offered the socket
    LEAST_ROOM = 4 * 1024    # a read is not offered less than this


DEFAULT_FRAME_LIMIT = 4 * 1024 * 1024
HARD_FRAME_LIMIT = 64 * 1024 * 1024


@cython.final
cdef class ReceiveBuffer:
    """What the sockets of one event loop are read into, one after the other: an idle reader has no
    buffer of its own.

    What one of them has not used yet when another is to be read moves to where only the first one
    looks.
    """

    def __cinit__(self):
        self._reader = NULL
        self._data = <uint8_t*>PyMem_Malloc(ROOMY)
        if self._data is NULL:
            raise MemoryError()

    def __dealloc__(self):
        PyMem_Free(self._data)


@cython.no_gc     # it is part of no cycle, and looks at the shared buffer when it ends
cdef class FrameReader:
    """Cuts a stream of bytes into frames, wherever the reads happen to split it.

    A transport writes into it through the buffer protocol (``memoryview(reader)`` is the free room,
    until the next call of any method, or of another reader with the same ``buffer``) and then tells
    with :meth:`received` how much. ``limit`` is the largest body that is taken, in bytes.
    ``buffer``: shared with the other connections of the loop; one of its own by default.
    """

    def __cinit__(self, Py_ssize_t limit=DEFAULT_FRAME_LIMIT, ReceiveBuffer buffer=None):
        if not 1 <= limit <= HARD_FRAME_LIMIT:
            raise ValueError(f"frame limit must be from 1 to {HARD_FRAME_LIMIT} bytes, got {limit}")
        self.limit = limit
        self._shared = ReceiveBuffer() if buffer is None else buffer

    def __dealloc__(self):
        self._free()

    def __getbuffer__(self, Py_buffer* buffer, int flags):
        self._make_room(LEAST_ROOM, False)
        PyBuffer_FillInfo(buffer, self, self._data + self._end, self._capacity - self._end, 0, flags)

    def __len__(self):
        """How many bytes may be written now; asyncio asks."""
        self._make_room(LEAST_ROOM, False)
        return self._capacity - self._end

    @property
    def capacity(self):
        """How many bytes it takes in memory beside the shared buffer."""
        return self._own_size

    @property
    def buffered(self):
        """How many received bytes are not yet part of a whole frame."""
        return self._end - self._start

    cpdef int received(self, Py_ssize_t size) except -1:
        """Say that ``size`` bytes were written into the buffer."""
        if size < 0 or size > self._capacity - self._end:
            raise ValueError(f"{size} bytes cannot have been written into {self._capacity - self._end}")
        self._end += size
        self._is_used = True
        return 0

    def feed(self, data):
        """Take ``data`` whole and return the bodies of the frames that it completes, as a list of
        ``bytes``.

        :raises FrameTooLarge: a header announces more than ``limit`` bytes; nothing of that body
        was kept.
        """
        cdef Py_buffer view
        cdef Py_ssize_t taken = 0
        cdef Cursor body
        cdef list bodies = []
        PyObject_GetBuffer(data, &view, PyBUF_SIMPLE)
        try:
            while taken < view.len:
                taken += self._copy(<const uint8_t*>view.buf + taken, view.len - taken)
                while self._next(&body):
                    bodies.append(PyBytes_FromStringAndSize(<const char*>body.at, body.end - body.at))
        finally:
            PyBuffer_Release(&view)
        return bodies

    def __iter__(self):
        return self

    def __next__(self):
        cdef Cursor body
        if not self._next(&body):
            raise StopIteration
        return PyBytes_FromStringAndSize(<const char*>body.at, body.end - body.at)

    cdef int _next(self, Cursor* body) except -1:
        # 1 and the next whole frame's body, or 0 where there is none.
        cdef Py_ssize_t have = self._end - self._start, size
        if have < HEADER:
            return 0
        size = <Py_ssize_t>big_endian(self._data + self._start, HEADER)
        if size > self.limit:
            raise FrameTooLarge(f"a frame of {size} bytes was announced, the limit is {self.limit}")
        if have < HEADER + size:
            return 0
        body.at = self._data + self._start + HEADER
        body.end = body.at + size
        self._start += HEADER + size
        return 1

    cdef Py_ssize_t _copy(self, const uint8_t* data, Py_ssize_t size) except -1:
        # Receive as much as there is room for, and say how much that was. It may be in the middle
        # of another reader's read.
        self._make_room(min(size, ROOMY), True)
        size = min(size, self._capacity - self._end)
        memcpy(self._data + self._end, data, size)
        self.received(size)
        return size

    cdef int _make_room(self, Py_ssize_t least, bint alone) except -1:
        # Leave room for the rest of the frame that has begun, and for one read; but never for much
        # more than was received: what a header announces costs nothing until it comes. In the
        # shared buffer, unless the frame is too large or we are not to disturb others.
        cdef Py_ssize_t have = self._end - self._start, need = least
        if have >= HEADER:
            need = min(HEADER + <Py_ssize_t>big_endian(self._data + self._start, HEADER), HEADER + self.limit) - have
            need = max(min(need, max(have, ROOMY)), least)
        if not alone and self._own_size <= ROOMY and have + need <= ROOMY:
            return self._move_in(need)
        if self._data is not self._own or self._own_size - have < need:
            return self._move_out(have + need)
        if have == 0 or self._own_size - self._end < need:
            memmove(self._own, self._own + self._start, have)
            self._start, self._end = 0, have
        return 0

    cdef int _move_in(self, Py_ssize_t need) except -1:
        # Have what is unread in the shared buffer, with room for so much more.
        cdef Py_ssize_t have = self._end - self._start
        cdef FrameReader other
        if self._shared._reader is not <void*>self:
            if self._shared._reader is not NULL:
                other = <FrameReader>self._shared._reader
                other._move_out(other._end - other._start)
            if have:
                memcpy(self._shared._data, self._data + self._start, have)
            self._free()
            self._shared._reader = <void*>self
            self._data, self._capacity = self._shared._data, ROOMY
        elif have != 0 and self._capacity - self._end >= need:
            return 0
        elif have != 0:
            memmove(self._data, self._data + self._start, have)
        self._start, self._end = 0, have
        return 0

    cdef int _move_out(self, Py_ssize_t size) except -1:
        # Have what is unread in a buffer of one's own, of so many bytes.
        cdef Py_ssize_t have = self._end - self._start
        cdef uint8_t* own = NULL
        if size:
            own = <uint8_t*>PyMem_Malloc(size)
            if own is NULL:
                raise MemoryError()
            if have:
                memcpy(own, self._data + self._start, have)
        self._free()
        self._own, self._own_size = own, size
        self._data, self._capacity = own, size
        self._start, self._end = 0, have
        return 0

    cdef void _free(self) noexcept:
        # Let go of both buffers.
        if self._shared is not None and self._shared._reader is <void*>self:
            self._shared._reader = NULL
        PyMem_Free(self._own)
        self._own, self._own_size = NULL, 0
        self._data, self._capacity = NULL, 0

    cpdef int relax(self) except -1:
        """To be called now and then: what was not needed since the last time is given back."""
        if not self._is_used and self._start == self._end:
            self._free()
            self._start = self._end = 0
        self._is_used = False
        return 0


cdef class FrameWriter:
    """Collects frames until they leave in one write."""

    def __cinit__(self):
        self._capacity = 0
        self._data = NULL
        self._size = 0
        self._parts = None
        self._parted = 0

    def __dealloc__(self):
        PyMem_Free(self._data)

    def __len__(self):
        """How many bytes wait."""
        return self._parted + self._size

    def put(self, bytes body not None):
        """Add one frame with this body."""
        cdef Py_ssize_t size = PyBytes_GET_SIZE(body)
        cdef uint8_t* at = self._reserve(HEADER + size)
        at = put_big_endian(at, size, HEADER)
        self._commit(put_raw(at, PyBytes_AS_STRING(body), size))

    cpdef int put_message(self, uint8_t kind, uint64_t id, bytes payload) except -1:
        """Add a frame whose body is the array ``[kind, id, payload]``, the payload being
        MessagePack already.
        """
        cdef Py_ssize_t size = PyBytes_GET_SIZE(payload)
        cdef uint8_t* start = self._reserve(HEADER + 12 + min(size, LARGE))
        cdef uint8_t* at = start + HEADER
        at[0] = 0x93
        at = put_uint(put_uint(at + 1, kind), id)
        put_big_endian(start, at - start - HEADER + size, HEADER)
        return self._commit_payload(at, payload)

    def take(self):
        """All that waits, as ``bytes``; the writer is empty afterwards."""
        parts, self._parts = self._parts or [], None
        self._parted = 0
        return b"".join([*parts, self._take_data()])

    cdef uint8_t* _reserve(self, Py_ssize_t size) except NULL:
        # Room for `size` more bytes. What is written there counts once _commit was told its end.
        cdef Py_ssize_t capacity = max(self._capacity, 1024)
        cdef uint8_t* data
        self._is_used = True
        if self._size + size > self._capacity:
            while capacity < self._size + size:
                capacity *= 2
            data = <uint8_t*>PyMem_Realloc(self._data, capacity)
            if data is NULL:
                raise MemoryError()
            self._data = data
            self._capacity = capacity
        return self._data + self._size

    cdef void _commit(self, uint8_t* end) noexcept:
        self._size = end - self._data

    cdef int _commit_payload(self, uint8_t* end, bytes payload) except -1:
        # The same, and the payload comes next, for which min(its size, LARGE) was reserved.
        cdef Py_ssize_t size = PyBytes_GET_SIZE(payload)
        if size < LARGE:
            self._commit(put_raw(end, PyBytes_AS_STRING(payload), size))
            return 0
        self._commit(end)
        if self._parts is None:
            self._parts = []
        self._parted += self._size + size
        self._parts.append(self._take_data())
        self._parts.append(payload)
        return 0

    cdef bytes _take_data(self):
        cdef bytes taken = PyBytes_FromStringAndSize(<const char*>self._data, self._size)
        self._size = 0
        return taken

    cdef int _send_to(self, object transport) except -1:
        # All that waits, in one write but for large payloads. (Not by writelines(): asyncio knows
        # no back-pressure there in Python 3.13.0.)
        if self._parts is None:
            transport.write(self._take_data())
            return 0
        parts, self._parts = self._parts, None
        self._parted = 0
        if self._size:
            parts.append(self._take_data())
        for part in parts:
            transport.write(part)
        return 0

    cpdef int relax(self) except -1:
        """To be called now and then: what was not needed since the last time is given back."""
        if not self._is_used and self._size == 0:
            PyMem_Free(self._data)
            self._data = NULL
            self._capacity = 0
        self._is_used = False
        return 0
