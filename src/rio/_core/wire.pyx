# cython: language_level=3
"""What comes once per message, written and read side by side.

A ``put_`` function writes at the given place and returns where the payload goes; the caller has
made sure that there is room. A ``take_`` function reads on in a frame; what is then left of it is
the payload.
"""

from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE

cimport rio._core.limits as limits
from rio._core.msgpack cimport (
    put_array,
    put_bin,
    put_nil,
    put_raw,
    put_str,
    put_uint,
    take_array,
    take_bin_or_nil,
    take_str,
    take_uint,
)

from rio.errors import ProtocolError

MAX_TYPE_NAME = limits.MAX_TYPE_NAME
MAX_ID = limits.MAX_ID
MAX_METADATA = limits.MAX_METADATA


cdef enum Fields:
    # how many fields a frame of this kind has
    OF_REQUEST = 8
    OF_RESPONSE = 3
    OF_CANCEL = 2
    OF_EVENT = 5


# --- every frame: [kind, id, ...] -----------------------------------------------------------------

cdef uint8_t* put_head(uint8_t* at, Py_ssize_t fields, Kind kind, uint64_t id) noexcept:
    return put_uint(put_uint(put_array(at, fields), kind), id)


cdef int take_head(Frame* frame) except -1:
    frame.rest = frame.whole
    if (
        take_array(&frame.rest, &frame.fields)
        or frame.fields < 2
        or take_uint(&frame.rest, &frame.kind)
        or take_uint(&frame.rest, &frame.id)
    ):
        raise ProtocolError("a frame must be a MessagePack array that begins with a kind and an id")
    return 0


# --- REQUEST: [1, id, object type, object id, message name, timeout, context, payload] ------------

cdef Py_ssize_t room_for_request(const Request* request) noexcept:
    # More than put_request writes.
    return (
        limits.REQUEST_HEAD
        + request.type_name.size
        + request.object_id.size
        + request.message_name.size
        + request.context.size
    )


cdef uint8_t* put_request(uint8_t* at, const Request* request) noexcept:
    at = put_head(at, OF_REQUEST, Kind.REQUEST, request.id)
    at = put_str(at, request.type_name.data, request.type_name.size)
    at = put_str(at, request.object_id.data, request.object_id.size)
    at = put_str(at, request.message_name.data, request.message_name.size)
    at = put_uint(at, request.timeout)
    if request.context.data is NULL:
        return put_nil(at)
    return put_bin(at, request.context.data, request.context.size)


cdef int take_request(Frame* frame, Request* request) except -1:
    if frame.fields != OF_REQUEST:
        raise ProtocolError(f"a request must have {OF_REQUEST} fields, this one has {frame.fields}")
    request.id = frame.id
    if take_text(&frame.rest, &request.type_name):
        raise ProtocolError("the object type of a request must be a string")
    if take_text(&frame.rest, &request.object_id):
        raise ProtocolError("the object id of a request must be a string")
    if take_text(&frame.rest, &request.message_name):
        raise ProtocolError("the message name of a request must be a string")
    if take_uint(&frame.rest, &request.timeout):
        raise ProtocolError("the timeout of a request must be an unsigned number of milliseconds")
    if take_bin_or_nil(
        &frame.rest, <const uint8_t**>&request.context.data, &request.context.size
    ):
        raise ProtocolError("the context of a request must be binary or nil")
    return 0


cdef inline int take_text(Cursor* body, Text* text) noexcept:
    return take_str(body, <const uint8_t**>&text.data, &text.size)


# --- RESPONSE: [2, id, payload] -------------------------------------------------------------------

cdef uint8_t* put_response(uint8_t* at, uint64_t id) noexcept:
    return put_head(at, OF_RESPONSE, Kind.RESPONSE, id)


# --- CANCEL: [4, id] ------------------------------------------------------------------------------

cdef uint8_t* put_cancel(uint8_t* at, uint64_t id) noexcept:
    return put_head(at, OF_CANCEL, Kind.CANCEL, id)


# --- EVENT: [6, number, sequence, event name, payload] --------------------------------------------

def write_event(uint64_t number, uint64_t sequence, bytes tail not None):
    """The body of an EVENT, as ``bytes``. ``tail`` is its name and its payload in MessagePack,
    which are the same for all subscribers.
    """
    cdef uint8_t head[32]
    cdef uint8_t* end = put_uint(put_head(head, OF_EVENT, Kind.EVENT, number), sequence)
    cdef Py_ssize_t size = end - head
    cdef bytes body = PyBytes_FromStringAndSize(NULL, size + PyBytes_GET_SIZE(tail))
    cdef uint8_t* at = put_raw(<uint8_t*>PyBytes_AS_STRING(body), head, size)
    put_raw(at, PyBytes_AS_STRING(tail), PyBytes_GET_SIZE(tail))
    return body
