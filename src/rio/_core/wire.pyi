from enum import IntEnum
from typing import Final

MAX_TYPE_NAME: Final[int]
MAX_ID: Final[int]
MAX_METADATA: Final[int]

__pyx_capi__: dict[str, object]  # what the other compiled modules use in C

class Kind(IntEnum):
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
    GOSSIP = 10
    PROOF = 11

def write_event(number: int, sequence: int, tail: bytes) -> bytes: ...
