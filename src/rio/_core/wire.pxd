# cython: language_level=3
"""The layout of frames: the list of their kinds, and what is written and read once per message.

``docs/protocol.md`` describes all of them. Frames that come less often are written and read in
``rio.transport.protocol``.
"""

from libc.stdint cimport uint8_t, uint32_t, uint64_t

from rio._core.msgpack cimport Cursor


cpdef enum Kind:
    HELLO = 0
    REQUEST = 1
    RESPONSE = 2
    ERROR = 3
    CANCEL = 4
    END = 5         # of a subscription: from the client; or from the server, with a reason
    EVENT = 6
    PING = 7
    PONG = 8
    # From a server: it drains, new objects go elsewhere. With a number: it has stopped, and the
    # number is that of the last request that it read. From a client: drain and stop.
    GOAWAY = 9
    # Between nodes, on a connection of its own, from the node that made the connection: what the
    # members tell each other.
    GOSSIP = 10
    # Where a key is asked for: that this side holds it. It follows the HELLO.
    PROOF = 11


cdef struct Frame:
    # The body of one frame, and how far it is read: what every frame begins with.
    Cursor whole
    Cursor rest
    uint32_t fields     # of the whole array
    uint64_t kind
    uint64_t id


cdef struct Text:
    # UTF-8, or other bytes, that belong to somebody else.
    const char* data
    Py_ssize_t size


cdef struct Request:
    # A REQUEST without its payload.
    uint64_t id
    Text type_name
    Text object_id
    Text message_name
    uint64_t timeout    # milliseconds; 0: the server decides
    Text context        # data is NULL: none


cdef int take_head(Frame* frame) except -1
cdef uint8_t* put_head(uint8_t* at, Py_ssize_t fields, Kind kind, uint64_t id) noexcept
cdef int take_request(Frame* frame, Request* request) except -1
cdef Py_ssize_t room_for_request(const Request* request) noexcept
cdef uint8_t* put_request(uint8_t* at, const Request* request) noexcept
cdef uint8_t* put_response(uint8_t* at, uint64_t id) noexcept
cdef uint8_t* put_cancel(uint8_t* at, uint64_t id) noexcept
