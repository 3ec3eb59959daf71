# cython: language_level=3
"""Bytes in, frames out, and back. It knows no socket: a transport fills the reader's buffer and sends what the writer holds.

A frame is a 4-byte big-endian length and that many bytes of body, one MessagePack array (``docs/protocol.md``).
"""

from cpython.buffer cimport PyBUF_SIMPLE, PyBuffer_FillInfo, PyBuffer_Release, PyObject_GetBuffer
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from cpython.mem cimport PyMem_Free, PyMem_Malloc, PyMem_Realloc
from libc.string cimport memcpy, memmove

from rio.errors import FrameTooLarge


cdef enum:
    HEADER = 4
    SMALLEST = 4 * 1024      # what an idle connection keeps
    ROOMY = 256 * 1024       # how much a busy one offers the socket
    LEAST_ROOM = 4 * 1024    # a read is not offered less than this


DEFAULT_FRAME_LIMIT = 4 * 1024 * 1024
HARD_FRAME_LIMIT = 64 * 1024 * 1024


cdef class FrameReader:
    """Cuts a stream of bytes into frames, wherever the reads happen to split it.

    It is its own buffer: a transport writes into it through the buffer protocol (``memoryview(reader)`` is the free room, until the next
    call of any method) and then tells with :meth:`received` how much. ``limit`` is the largest body that is taken, in bytes.
    """

    def __cinit__(self, Py_ssize_t limit=DEFAULT_FRAME_LIMIT):
        if not 1 <= limit <= HARD_FRAME_LIMIT:
            raise ValueError(f"frame limit must be from 1 to {HARD_FRAME_LIMIT} bytes, got {limit}")
        self.limit = limit
        self._capacity = SMALLEST
        self._data = <uint8_t*>PyMem_Malloc(self._capacity)
        if self._data is NULL:
            raise MemoryError()

    def __dealloc__(self):
        PyMem_Free(self._data)

    def __getbuffer__(self, Py_buffer* buffer, int flags):
        self._make_room()
        PyBuffer_FillInfo(buffer, self, self._data + self._end, self._capacity - self._end, 0, flags)

    def __len__(self):
        """How many bytes may be written now; asyncio asks."""
        self._make_room()
        return self._capacity - self._end

    @property
    def capacity(self):
        """How many bytes the buffer takes in memory."""
        return self._capacity

    @property
    def buffered(self):
        """How many received bytes are not yet part of a whole frame."""
        return self._end - self._start

    cpdef int received(self, Py_ssize_t size) except -1:
        """Say that ``size`` bytes were written into the buffer."""
        if size < 0 or size > self._capacity - self._end:
            raise ValueError(f"{size} bytes cannot have been written into {self._capacity - self._end}")
        if size == self._capacity - self._end and self._capacity < ROOMY:
            self._resize(self._capacity * 2)     # the socket filled all that it was offered: offer more
        self._end += size
        self._is_used = True
        return 0

    def feed(self, data):
        """Take ``data`` whole and return the bodies of the frames that it completes, as a list of ``bytes``.

        :raises FrameTooLarge: a header announces more than ``limit`` bytes; nothing of that body was kept.
        """
        cdef Py_buffer view
        cdef Py_ssize_t taken = 0
        cdef list bodies = []
        PyObject_GetBuffer(data, &view, PyBUF_SIMPLE)
        try:
            while taken < view.len:
                taken += self._copy(<const uint8_t*>view.buf + taken, view.len - taken)
                bodies.extend(self)
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
        # Receive what there is room for, and say how much that was.
        self._make_room()
        size = min(size, self._capacity - self._end)
        memcpy(self._data + self._end, data, size)
        self.received(size)
        return size

    cdef int _make_room(self) except -1:
        # Leave room for the rest of the frame that has begun, and at least for one read; but never for much more than was received: what
        # a header announces costs nothing until it comes.
        cdef Py_ssize_t have = self._end - self._start, need = LEAST_ROOM
        if have == 0:
            self._start = self._end = 0
            return 0
        if have >= HEADER:
            need = min(HEADER + <Py_ssize_t>big_endian(self._data + self._start, HEADER), HEADER + self.limit) - have
            need = max(min(need, max(have, ROOMY)), LEAST_ROOM)
        if self._capacity - self._end >= need:
            return 0
        memmove(self._data, self._data + self._start, have)
        self._start, self._end = 0, have
        if self._capacity - have < need:
            self._resize(have + need)
        return 0

    cdef int _resize(self, Py_ssize_t capacity) except -1:
        cdef uint8_t* data = <uint8_t*>PyMem_Realloc(self._data, capacity)
        if data is NULL:
            raise MemoryError()
        self._data = data
        self._capacity = capacity
        return 0

    cpdef int relax(self) except -1:
        """To be called now and then: what was not needed since the last time is given back."""
        if not self._is_used and self._start == self._end and self._capacity > SMALLEST:
            self._start = self._end = 0
            self._resize(SMALLEST)
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
        """Add a frame whose body is the array ``[kind, id, payload]``, the payload being MessagePack already."""
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
        # All that waits, in one write but for large payloads. (Not by writelines(): asyncio knows no back-pressure there in Python 3.13.0.)
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
