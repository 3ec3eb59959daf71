# cython: language_level=3
"""What the other compiled modules need of the frame layer: a cursor over one frame's bytes, and the
two buffers.
"""

from libc.stdint cimport uint8_t, uint32_t, uint64_t
from libc.string cimport memcpy


cdef enum:
    # bytes of a payload from which on it is sent as it is, instead of copied among others
    LARGE = 32 * 1024


cdef enum Kind:
    HELLO = 0
    REQUEST = 1
    RESPONSE = 2
    ERROR = 3
    CANCEL = 4
    END = 5
    EVENT = 6
    PING = 7
    PONG = 8
    GOAWAY = 9


cdef struct Cursor:
    # What is left to read of one frame's body. Valid until the reader is given more bytes.
    const uint8_t* at
    const uint8_t* end


cdef class ReceiveBuffer:
    cdef uint8_t* _data
    # the FrameReader whose unread bytes lie in it, if any; not counted as a reference
    cdef void* _reader


cdef class FrameReader:
    cdef ReceiveBuffer _shared
    cdef uint8_t* _own          # where unread bytes lie that are not in _shared; NULL: nowhere else
    cdef Py_ssize_t _own_size
    cdef uint8_t* _data         # that of the two in which they lie
    cdef Py_ssize_t _capacity   # its size
    cdef Py_ssize_t _start      # the first byte that was not handed out as part of a frame
    cdef Py_ssize_t _end        # one past the last byte received
    cdef bint _is_used          # something was received since relax() was last called
    cdef readonly Py_ssize_t limit

    cpdef int received(self, Py_ssize_t size) except -1
    cdef int _next(self, Cursor* body) except -1
    cdef Py_ssize_t _copy(self, const uint8_t* data, Py_ssize_t size) except -1
    cdef int _make_room(self, Py_ssize_t least, bint alone) except -1
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

    cpdef int put_message(self, uint8_t kind, uint64_t id, bytes payload) except -1
    cdef uint8_t* _reserve(self, Py_ssize_t size) except NULL
    cdef void _commit(self, uint8_t* end) noexcept
    cdef int _commit_payload(self, uint8_t* end, bytes payload) except -1
    cdef bytes _take_data(self)
    cdef int _send_to(self, object transport) except -1
    cpdef int relax(self) except -1


# --- reading MessagePack; each returns 0, or -1 where the next value is something else or is cut short 

cdef inline uint64_t big_endian(const uint8_t* at, int size) noexcept nogil:
    cdef uint64_t value = 0
    cdef int i
    for i in range(size):
        value = (value << 8) | at[i]
    return value


cdef inline int take_array(Cursor* body, uint32_t* length) noexcept nogil:
    if body.at >= body.end:
        return -1
    cdef uint8_t head = body.at[0]
    if 0x90 <= head <= 0x9f:
        length[0] = head & 0x0f
        body.at += 1
        return 0
    cdef int size = 2 if head == 0xdc else 4 if head == 0xdd else 0
    if size == 0 or body.end - body.at < 1 + size:
        return -1
    length[0] = <uint32_t>big_endian(body.at + 1, size)
    body.at += 1 + size
    return 0


cdef inline int take_uint(Cursor* body, uint64_t* value) noexcept nogil:
    # Of any width; the signed forms too, which some encoders choose for every number, if the number
    # is not negative.
    if body.at >= body.end:
        return -1
    cdef uint8_t head = body.at[0]
    if head <= 0x7f:
        value[0] = head
        body.at += 1
        return 0
    if head < 0xcc or head > 0xd3:
        return -1
    cdef int size = 1 << (head & 3)     # cc to cf unsigned, d0 to d3 signed
    if body.end - body.at < 1 + size or (head >= 0xd0 and body.at[1] & 0x80):
        return -1
    value[0] = big_endian(body.at + 1, size)
    body.at += 1 + size
    return 0


cdef inline int _take_sized(Cursor* body, int width, const uint8_t** data, Py_ssize_t* size) noexcept nogil:
    # The rest of a str or bin whose head said that its size stands in the next `width` bytes.
    if body.end - body.at < 1 + width:
        return -1
    cdef uint64_t length = big_endian(body.at + 1, width)
    if <uint64_t>(body.end - body.at) - 1 - width < length:
        return -1
    data[0] = body.at + 1 + width
    size[0] = <Py_ssize_t>length
    body.at += 1 + width + size[0]
    return 0


cdef inline int take_str(Cursor* body, const uint8_t** data, Py_ssize_t* size) noexcept nogil:
    if body.at >= body.end:
        return -1
    cdef uint8_t head = body.at[0]
    if 0xa0 <= head <= 0xbf:
        size[0] = head & 0x1f
        if body.end - body.at - 1 < size[0]:
            return -1
        data[0] = body.at + 1
        body.at += 1 + size[0]
        return 0
    if 0xd9 <= head <= 0xdb:
        return _take_sized(body, 1 << (head - 0xd9), data, size)
    return -1


cdef inline int take_bin_or_nil(Cursor* body, const uint8_t** data, Py_ssize_t* size) noexcept nogil:
    # nil gives a NULL pointer.
    if body.at >= body.end:
        return -1
    cdef uint8_t head = body.at[0]
    if head == 0xc0:
        data[0] = NULL
        size[0] = 0
        body.at += 1
        return 0
    if 0xc4 <= head <= 0xc6:
        return _take_sized(body, 1 << (head - 0xc4), data, size)
    return -1


# --- writing MessagePack in its shortest form; each returns one past what it wrote ----------------

cdef inline uint8_t* put_big_endian(uint8_t* at, uint64_t value, int size) noexcept nogil:
    cdef int i
    for i in range(size - 1, -1, -1):
        at[i] = value & 0xff
        value >>= 8
    return at + size


cdef inline uint8_t* put_uint(uint8_t* at, uint64_t value) noexcept nogil:
    cdef int power = 3
    if value <= 0x7f:
        at[0] = <uint8_t>value
        return at + 1
    if value <= 0xff:
        power = 0
    elif value <= 0xffff:
        power = 1
    elif value <= <uint64_t>0xffffffffu:
        power = 2
    at[0] = 0xcc + power
    return put_big_endian(at + 1, value, 1 << power)


cdef inline uint8_t* put_raw(uint8_t* at, const void* data, Py_ssize_t size) noexcept nogil:
    memcpy(at, data, size)
    return at + size


cdef inline uint8_t* put_str(uint8_t* at, const char* data, Py_ssize_t size) noexcept nogil:
    cdef int power
    if size <= 31:
        at[0] = 0xa0 | <uint8_t>size
        return put_raw(at + 1, data, size)
    power = 0 if size <= 0xff else 1 if size <= 0xffff else 2
    at[0] = 0xd9 + power
    return put_raw(put_big_endian(at + 1, size, 1 << power), data, size)


cdef inline uint8_t* put_bin(uint8_t* at, const char* data, Py_ssize_t size) noexcept nogil:
    cdef int power = 0 if size <= 0xff else 1 if size <= 0xffff else 2
    at[0] = 0xc4 + power
    return put_raw(put_big_endian(at + 1, size, 1 << power), data, size)
