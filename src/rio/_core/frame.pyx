# cython: language_level=3, nonecheck=False
"""Bytes in, frames out, and back. This module knows no socket: a transport fills the reader's
buffer, and sends what the writer holds.

A frame is a 4-byte big-endian length and that many bytes of body, one MessagePack array
(``docs/protocol.md``).
"""

from cpython.buffer cimport PyBUF_SIMPLE, PyBuffer_FillInfo, PyBuffer_Release, PyObject_GetBuffer
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from cpython.mem cimport PyMem_Free, PyMem_Malloc, PyMem_Realloc
from libc.string cimport memcpy, memmove

cimport cython

cimport rio._core.limits as limits
cimport rio._core.wire as wire
from rio._core.msgpack cimport big_endian, bytes_of, put_big_endian, put_raw

from rio.errors import FrameTooLarge

FRAME_HEADER = limits.FRAME_HEADER
DEFAULT_FRAME_LIMIT = limits.DEFAULT_FRAME_LIMIT
HARD_FRAME_LIMIT = limits.HARD_FRAME_LIMIT


@cython.final
cdef class ReceiveBuffer:
    """What the sockets of one event loop are read into, one after the other: an idle reader has no
    buffer of its own.

    When another reader takes its turn, the unread bytes of the one before move to a buffer of
    their own.
    """

    def __cinit__(self):
        self._reader = NULL
        self._data = <uint8_t*>PyMem_Malloc(limits.ROOMY)
        if self._data is NULL:
            raise MemoryError()

    def __dealloc__(self):
        PyMem_Free(self._data)


@cython.final
@cython.no_gc     # it is part of no cycle, and looks at the shared buffer when it ends
cdef class FrameReader:
    """Cuts a stream of bytes into frames, wherever the reads happen to split it.

    A transport writes into it through the buffer protocol (``memoryview(reader)`` is the free room,
    until the next call of any method, or of another reader with the same ``buffer``) and then tells
    with :meth:`advance` how much it wrote.

    ``limit``: the largest body that the reader takes, in bytes.
    ``buffer``: shared with the other connections of the loop; one of its own by default.
    """

    def __cinit__(
        self, Py_ssize_t limit=limits.DEFAULT_FRAME_LIMIT, ReceiveBuffer buffer=None
    ):
        if not 1 <= limit <= limits.HARD_FRAME_LIMIT:
            raise ValueError(
                f"a frame limit must be from 1 to {HARD_FRAME_LIMIT} bytes, got {limit}"
            )
        self.limit = limit
        self._shared = ReceiveBuffer() if buffer is None else buffer

    def __dealloc__(self):
        self._free()

    def __getbuffer__(self, Py_buffer* buffer, int flags):
        self._make_room(limits.LEAST_ROOM, False)
        # Who keeps the view keeps what it shows, although the reader may have left it.
        owner = self._shared if self._own is None else self._own
        PyBuffer_FillInfo(
            buffer, owner, self._data + self._end, self._capacity - self._end, 0, flags
        )

    def __len__(self):
        """How many bytes a transport may write now; asyncio asks."""
        self._make_room(limits.LEAST_ROOM, False)
        return self._capacity - self._end

    @property
    def capacity(self):
        """How many bytes the reader occupies besides the shared buffer."""
        return self._own_size()

    @property
    def buffered(self):
        """How many received bytes are not yet part of a whole frame."""
        return self._end - self._start

    cpdef int advance(self, Py_ssize_t size) except -1:
        """Say that ``size`` bytes were written into the buffer."""
        if size < 0 or size > self._capacity - self._end:
            raise ValueError(
                f"the buffer has room for {self._capacity - self._end} bytes: "
                f"{size} bytes cannot have been written"
            )
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
                    bodies.append(bytes_of(&body))
        finally:
            PyBuffer_Release(&view)
        return bodies

    def __iter__(self):
        return self

    def __next__(self):
        cdef Cursor body
        if not self._next(&body):
            raise StopIteration
        return bytes_of(&body)

    cdef int _next(self, Cursor* body) except -1:
        # 1 and the next whole frame's body, or 0 where there is none.
        cdef Py_ssize_t have = self._end - self._start, size
        if have < limits.FRAME_HEADER:
            return 0
        size = <Py_ssize_t>big_endian(self._data + self._start, limits.FRAME_HEADER)
        if size > self.limit:
            raise FrameTooLarge(f"a frame of {size} bytes was announced, the limit is {self.limit}")
        if have < limits.FRAME_HEADER + size:
            return 0
        body.at = self._data + self._start + limits.FRAME_HEADER
        body.end = body.at + size
        self._start += limits.FRAME_HEADER + size
        return 1

    cdef Py_ssize_t _announced(self) noexcept:
        # The size of the frame that has begun, as far as it is known.
        if self._end - self._start < limits.FRAME_HEADER:
            return 0
        return <Py_ssize_t>big_endian(self._data + self._start, limits.FRAME_HEADER)

    cdef Py_ssize_t _copy(self, const uint8_t* data, Py_ssize_t size) except -1:
        # Receive as much as there is room for, and say how much that was. Another reader may be in
        # the middle of its read: leave the shared buffer alone.
        self._make_room(min(size, limits.ROOMY), True)
        size = min(size, self._capacity - self._end)
        memmove(self._data + self._end, data, size)    # somebody may feed a reader its own room
        self.advance(size)
        return size

    cdef int _make_room(self, Py_ssize_t least, bint alone) except -1:
        # Make room for the rest of the frame that has begun, and for one read; but never for much
        # more than was received: what a header announces costs nothing until it comes. The room is
        # in the shared buffer, unless the frame is too large for it or we must leave it `alone`.
        cdef Py_ssize_t have = self._end - self._start, need = least, whole
        if have >= limits.FRAME_HEADER:
            whole = <Py_ssize_t>big_endian(self._data + self._start, limits.FRAME_HEADER)
            need = min(limits.FRAME_HEADER + whole, limits.FRAME_HEADER + self.limit) - have
            need = max(min(need, max(have, limits.ROOMY)), least)
        if not alone and self._own_size() <= limits.ROOMY and have + need <= limits.ROOMY:
            return self._move_in(need)
        if self._own is None or self._capacity - have < need:
            return self._move_out(have + need)
        if have == 0 or self._capacity - self._end < need:
            memmove(self._data, self._data + self._start, have)
            self._start, self._end = 0, have
        return 0

    cdef Py_ssize_t _own_size(self) noexcept:
        return 0 if self._own is None else PyBytes_GET_SIZE(self._own)

    cdef int _move_in(self, Py_ssize_t need) except -1:
        # Put what is unread into the shared buffer, with room for so much more.
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
            self._data, self._capacity = self._shared._data, limits.ROOMY
        elif have != 0 and self._capacity - self._end >= need:
            return 0
        elif have != 0:
            memmove(self._data, self._data + self._start, have)
        self._start, self._end = 0, have
        return 0

    cdef int _move_out(self, Py_ssize_t size) except -1:
        # Put what is unread into a buffer of the reader's own, of so many bytes.
        cdef Py_ssize_t have = self._end - self._start
        cdef bytes own = None
        if size:
            own = PyBytes_FromStringAndSize(NULL, size)
            if have:
                memcpy(PyBytes_AS_STRING(own), self._data + self._start, have)
        self._free()
        if size:
            self._own = own
            self._data, self._capacity = <uint8_t*>PyBytes_AS_STRING(own), size
        self._start, self._end = 0, have
        return 0

    cdef void _free(self) noexcept:
        # Let go of both buffers.
        if self._shared is not None and self._shared._reader is <void*>self:
            self._shared._reader = NULL
        self._own = None
        self._data, self._capacity = NULL, 0

    cpdef int relax(self) except -1:
        """Give back the memory that was not needed since the last call. Call it now and then."""
        if not self._is_used and self._start == self._end:
            self._free()
            self._start = self._end = 0
        self._is_used = False
        return 0


@cython.final
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
        return self._count()

    def put(self, bytes body not None):
        """Add one frame with this body."""
        cdef Py_ssize_t size = PyBytes_GET_SIZE(body)
        self._end(put_raw(self._begin(size, 0), PyBytes_AS_STRING(body), size), None)

    cpdef int put_response(self, uint64_t id, bytes payload) except -1:
        """Add a RESPONSE. Its payload is MessagePack already."""
        cdef uint8_t* at = self._begin(limits.RESPONSE_HEAD, len(payload))
        return self._end(wire.put_response(at, id), payload)

    def take(self):
        """All that waits, as ``bytes``; the writer is empty afterwards."""
        parts, self._parts = self._parts or [], None
        self._parted = 0
        return b"".join([*parts, self._take_data()])

    cdef uint8_t* _begin(self, Py_ssize_t room, Py_ssize_t payload_size) except NULL:
        # Where the body of the next frame goes. There is room for so many bytes, and for a payload
        # after them. The frame counts once _end has been called.
        cdef Py_ssize_t size = limits.FRAME_HEADER + room + min(payload_size, limits.LARGE_PAYLOAD)
        self._is_used = True
        if self._size + size > self._capacity:
            self._grow(self._size + size)
        return self._data + self._size + limits.FRAME_HEADER

    cdef int _end(self, uint8_t* at, bytes payload) except -1:
        # The body that was begun ends at `at`; or with the payload, unless that is None.
        cdef uint8_t* start = self._data + self._size
        cdef Py_ssize_t size = 0 if payload is None else PyBytes_GET_SIZE(payload)
        put_big_endian(start, at - start - limits.FRAME_HEADER + size, limits.FRAME_HEADER)
        if size < limits.LARGE_PAYLOAD:
            if size:
                at = put_raw(at, PyBytes_AS_STRING(payload), size)
            self._size = at - self._data
            return 0
        self._size = at - self._data
        if self._parts is None:
            self._parts = []
        self._parted += self._size + size
        self._parts.append(self._take_data())
        self._parts.append(payload)
        return 0

    cdef int _grow(self, Py_ssize_t size) except -1:
        cdef Py_ssize_t capacity = max(self._capacity, limits.LEAST_WRITER)
        cdef uint8_t* data
        while capacity < size:
            capacity *= 2
        data = <uint8_t*>PyMem_Realloc(self._data, capacity)
        if data is NULL:
            raise MemoryError()
        self._data = data
        self._capacity = capacity
        return 0

    cdef bytes _take_data(self):
        cdef bytes taken = PyBytes_FromStringAndSize(<const char*>self._data, self._size)
        self._size = 0
        return taken

    cdef int _send_to(self, object transport) except -1:
        # Send all that waits, in one write but for large payloads. (Not by writelines(): asyncio in
        # Python 3.13.0 knows no back-pressure there.)
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
        """Give back the memory that was not needed since the last call. Call it now and then."""
        if not self._is_used and self._size == 0:
            PyMem_Free(self._data)
            self._data = NULL
            self._capacity = 0
        self._is_used = False
        return 0
