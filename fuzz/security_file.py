"""The security file. An execution is a file."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

from fuzz.mutator import Mutator
from rio.errors import ConfigurationError
from rio.security.credentials import read_credentials

SECRET = b"pgfANny_oO2MTD1M0m9g6vV66CJH-hcDCHcUvYxyFKk="
KEY = (
    b"""[[keys]]
id = "node-1"
role = "node"
secret = "%b"
"""
    % SECRET
)
LIMITED = b"""[[keys]]
id = "web"
role = "call"
secret = 'OnlAw8XIhsD8IPX4Y-W9M49Dqo6QcYrXifqV6dueoXM='
allow = ["Account.*", "Room.Say"]
"""
FILES = b"""encryption = "certificates"
certificate = "node.pem"
private_key = "node.key"
ca = ["ca-2026.pem", "ca-2027.pem"]
"""
CORPUS = [KEY, b'encryption = "none"\n' + KEY + LIMITED, FILES + KEY, FILES + LIMITED]


class Target:
    def __init__(self) -> None:
        self._folder = tempfile.TemporaryDirectory()
        self._path = Path(self._folder.name, "security.toml")
        self._path.touch(0o600)

    def make(self, mutator: Mutator) -> bytes:
        return mutator.mutant()

    def run(self, conversation: bytes) -> int:
        with open(self._path, "wb", opener=lambda path, flags: os.open(path, flags)) as file:
            file.write(conversation)
        refusal = ""
        try:
            assert read_credentials(self._path).keys
        except ConfigurationError as error:
            refusal = error.message
        is_in_place = conversation.count(SECRET) == conversation.count(b'secret = "' + SECRET) == 1
        assert not is_in_place or SECRET.decode() not in refusal, "it shows a secret"
        return 1

    def close(self) -> None:
        self._folder.cleanup()
