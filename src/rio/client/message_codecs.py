"""How the messages of each class travel: their names, and what encodes and decodes them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from rio._core.calls import Call, MessageCodec
from rio._core.dispatch import Turn
from rio.errors import BadMessage, BadReply, RioError
from rio.identity import name_of_type, type_name_of
from rio.objects.context_var import Values
from rio.objects.handler import callable_handlers
from rio.objects.message import (
    NO_REPLY_DECLARED,
    DynamicMessage,
    Message,
    encode_message,
    reply_type_of,
)
from rio.objects.sender import Recipient
from rio.observability.trace_context import Trace
from rio.transport import call_context, codec
from rio.transport.codec import ENCODER


class MessageCodecs:
    """What a compiled caller asks about messages: once for each class, and when one is not like the
    others of its class.
    """

    context_of = staticmethod(call_context.nested_context)

    @staticmethod
    def context_with(turn: Turn | None, values: Values | None, trace: Trace) -> bytes | None:
        """What a call carries that has other values than the turn which waits for it, or the trace
        of a span of its own.
        """
        encoded = {} if values is None else values.encoded
        if turn is None:
            return call_context.context_without_chain(encoded, trace)
        return call_context.context_with(turn, encoded, trace)

    name_of = staticmethod(name_of_type)

    def codec_of(self, message: Any) -> MessageCodec:
        """How messages of this one's class travel.

        :raises TypeError: it is not a message.
        """
        if isinstance(message, DynamicMessage):
            return MessageCodec(None, encode_message, codec.decoder_of(Any), dynamic_reply=True)
        if not isinstance(message, Message):
            raise TypeError(
                "send() takes a rio.Message or a rio.DynamicMessage,"
                f" got {type(message).__name__}: {message!r:.200}"
            )
        cls = type(message)
        declared = reply_type_of(cls)
        bare = declared is NO_REPLY_DECLARED
        return MessageCodec(
            type_name_of(cls),
            ENCODER.encode,
            codec.decoder_of(Any if bare else declared),
            repeatable=cls.__rio_idempotent__ or cls.__rio_readonly__,
            dynamic_reply=bare,
        )

    def reply_decoder(
        self, message: Any, object_type: type[Recipient] | str, returns: Any
    ) -> Callable[[bytes], Any]:
        """What decodes the reply to a message that does not tell it for its whole class."""
        return codec.decoder_of(expected_reply(object_type, message, returns))

    def unencodable(self, message: Any, error: Exception) -> RioError:
        """What to raise when a message could not be encoded."""
        if isinstance(error, RioError):
            return error
        return codec.encoding_error(error, message, BadMessage)

    def undecodable(self, call: Call, error: BaseException) -> RioError:
        """How a call fails whose reply could not be decoded."""
        text = str(codec.decoding_error(error, object, BadReply))
        return BadReply(
            f"the reply of {call.type_name}/{call.id} to {call.message_name}"
            f" is not what was expected: {text}"
        )


def expected_reply(
    object_type: type[Recipient] | str,
    message: Message[Any] | DynamicMessage,
    returns: Any = None,
) -> Any:
    """The type into which the reply is decoded: ``returns`` if it is given, else the type that the
    message declares, else the type that the handler of ``object_type`` returns if that is a class,
    else ``Any``.

    :raises NameError: the message declares a reply that is not defined.
    """
    if returns is not None:
        return returns
    if isinstance(message, DynamicMessage):
        return _reply_of_handler(object_type, message.type_name)
    declared = reply_type_of(type(message))
    if declared is NO_REPLY_DECLARED:
        return _reply_of_handler(object_type, type_name_of(type(message)))
    return declared


def _reply_of_handler(object_type: type[Recipient] | str, message_name: str) -> Any:
    if isinstance(object_type, str):
        return Any
    replies = (
        handler.reply_type
        for handler in callable_handlers(object_type).values()
        if handler.message_name == message_name
    )
    return next(replies, Any)
