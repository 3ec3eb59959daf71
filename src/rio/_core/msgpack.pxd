# cython: language_level=3
"""MessagePack, read and written: the only place that knows its heads.

``take_`` functions move a cursor past one value. They return 0, or -1 where the next value is
something else or is cut short. ``put_`` functions write a value in its shortest form and return
where the next one goes; the caller has made sure that there is room.
"""

from cpython.bytes cimport PyBytes_FromStringAndSize
from libc.stdint cimport uint8_t, uint32_t, uint64_t
from libc.string cimport memcpy


cdef enum Head:
    # The first byte of a value. FIX forms hold a small size in their low bits; the others are
    # followed by a size or a number of 1, 2, 4 or 8 bytes.
    FIX_UINT_LAST = 0x7f
    FIX_ARRAY = 0x90
    FIX_ARRAY_LAST = 0x9f
    FIX_STR = 0xa0
    FIX_STR_LAST = 0xbf
    NIL = 0xc0
    BIN_8 = 0xc4
    BIN_32 = 0xc6
    UINT_8 = 0xcc
    INT_8 = 0xd0
    INT_64 = 0xd3
    STR_8 = 0xd9
    STR_32 = 0xdb
    ARRAY_16 = 0xdc
    ARRAY_32 = 0xdd


cdef struct Cursor:
    # What is left to read. It points into bytes that belong to somebody else, for example to a
    # FrameReader, which moves them when it is given more.
    const uint8_t* at
    const uint8_t* end


cdef inline bytes bytes_of(const Cursor* body):
    return PyBytes_FromStringAndSize(<const char*>body.at, body.end - body.at)


# --- reading --------------------------------------------------------------------------------------

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
    if FIX_ARRAY <= head <= FIX_ARRAY_LAST:
        length[0] = head - FIX_ARRAY
        body.at += 1
        return 0
    cdef int size = 2 if head == ARRAY_16 else 4 if head == ARRAY_32 else 0
    if size == 0 or body.end - body.at < 1 + size:
        return -1
    length[0] = <uint32_t>big_endian(body.at + 1, size)
    body.at += 1 + size
    return 0


cdef inline int take_uint(Cursor* body, uint64_t* value) noexcept nogil:
    # Of any width. Some encoders write every number in a signed form: that is read too, unless the
    # number is negative.
    if body.at >= body.end:
        return -1
    cdef uint8_t head = body.at[0]
    if head <= FIX_UINT_LAST:
        value[0] = head
        body.at += 1
        return 0
    if head < UINT_8 or head > INT_64:
        return -1
    cdef int size = 1 << (head & 3)     # both families begin at a multiple of 4
    if body.end - body.at < 1 + size or (head >= INT_8 and body.at[1] & 0x80):
        return -1
    value[0] = big_endian(body.at + 1, size)
    body.at += 1 + size
    return 0


cdef inline int _take_sized(
    Cursor* body, int width, const uint8_t** data, Py_ssize_t* size
) noexcept nogil:
    # The rest of a str or bin whose size stands in the `width` bytes after its head.
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
    if FIX_STR <= head <= FIX_STR_LAST:
        size[0] = head - FIX_STR
        if body.end - body.at - 1 < size[0]:
            return -1
        data[0] = body.at + 1
        body.at += 1 + size[0]
        return 0
    if STR_8 <= head <= STR_32:
        return _take_sized(body, 1 << (head - STR_8), data, size)
    return -1


cdef inline int take_bin_or_nil(
    Cursor* body, const uint8_t** data, Py_ssize_t* size
) noexcept nogil:
    # nil gives a NULL pointer.
    if body.at >= body.end:
        return -1
    cdef uint8_t head = body.at[0]
    if head == NIL:
        data[0] = NULL
        size[0] = 0
        body.at += 1
        return 0
    if BIN_8 <= head <= BIN_32:
        return _take_sized(body, 1 << (head - BIN_8), data, size)
    return -1


# --- writing --------------------------------------------------------------------------------------

cdef inline uint8_t* put_big_endian(uint8_t* at, uint64_t value, int size) noexcept nogil:
    cdef int i
    for i in range(size - 1, -1, -1):
        at[i] = value & 0xff
        value >>= 8
    return at + size


cdef inline uint8_t* put_raw(uint8_t* at, const void* data, Py_ssize_t size) noexcept nogil:
    # Bytes that are MessagePack already, or that follow a head.
    memcpy(at, data, size)
    return at + size


cdef inline uint8_t* put_nil(uint8_t* at) noexcept nogil:
    at[0] = NIL
    return at + 1


cdef inline uint8_t* put_array(uint8_t* at, Py_ssize_t length) noexcept nogil:
    if length <= FIX_ARRAY_LAST - FIX_ARRAY:
        at[0] = <uint8_t>(FIX_ARRAY + length)
        return at + 1
    cdef int power = 0 if length <= 0xffff else 1
    at[0] = ARRAY_16 + power
    return put_big_endian(at + 1, length, 2 << power)


cdef inline uint8_t* put_uint(uint8_t* at, uint64_t value) noexcept nogil:
    cdef int power = 3
    if value <= FIX_UINT_LAST:
        at[0] = <uint8_t>value
        return at + 1
    if value <= 0xff:
        power = 0
    elif value <= 0xffff:
        power = 1
    elif value <= <uint64_t>0xffffffffu:
        power = 2
    at[0] = UINT_8 + power
    return put_big_endian(at + 1, value, 1 << power)


cdef inline uint8_t* put_str(uint8_t* at, const char* data, Py_ssize_t size) noexcept nogil:
    cdef int power
    if size <= FIX_STR_LAST - FIX_STR:
        at[0] = <uint8_t>(FIX_STR + size)
        return put_raw(at + 1, data, size)
    power = 0 if size <= 0xff else 1 if size <= 0xffff else 2
    at[0] = STR_8 + power
    return put_raw(put_big_endian(at + 1, size, 1 << power), data, size)


cdef inline uint8_t* put_bin(uint8_t* at, const char* data, Py_ssize_t size) noexcept nogil:
    cdef int power = 0 if size <= 0xff else 1 if size <= 0xffff else 2
    at[0] = BIN_8 + power
    return put_raw(put_big_endian(at + 1, size, 1 << power), data, size)
