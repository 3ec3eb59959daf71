"""States that their database cannot read: a storage that encrypts what another one keeps.

A state is kept as these bytes:

================  ==================================================================================
``c1 01``         which no MessagePack begins with, and the version of this form
1 byte            the length of the key's id, and then the id
8 bytes           the version of the object that the commit of this state has made, most significant
                  byte first
16 bytes          random: HMAC-SHA-256 of them under the key is the key of this state alone
12 bytes          random: the nonce
the rest          the state under AES-256-GCM, with its tag
================  ==================================================================================

The associated data are the bytes up to the version, the type name and the id of the object, the
name of the state and its schema. Since each state has a key of its own, a key of the keyring may
encrypt as many as it likes: random nonces alone would meet after some billions.
"""

from __future__ import annotations

import base64
import hmac
import os
import re
import secrets
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Final, NamedTuple, NoReturn, Self

import msgspec

from rio.contracts.placement import ObjectPlacement
from rio.contracts.state import ENCRYPTED, Batch, StateStorage, StoredObject, StoredState
from rio.errors import ConfigurationError, StateCorrupt, UnknownKey
from rio.identity import ObjectId
from rio.security.private_file import read_private

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.ciphers.aead import AESGCM

_FORM = ENCRYPTED + b"\x01"
_KEY_BYTES = 32
_SALT_BYTES = 16
_RANDOM_BYTES = _SALT_BYTES + 12
_KEY_ID = re.compile(r"[A-Za-z0-9._-]{1,64}")


class Keyring:
    """The keys of an :class:`EncryptedState`: the first one writes, and all of them read.

    ``keys``: each of 32 random bytes, by its id: 1 to 64 letters, digits, dots, dashes and
    underscores, which stand in front of each state that the key has encrypted. In a text, a key is
    ``ID:BASE64``, one on a line or with a comma between; :meth:`generate` makes such a line.

    Nothing shows a key: neither ``repr()`` nor an error, and a keyring cannot be pickled.

    :raises ConfigurationError: there is no key, or one is not of 32 bytes, or an id is none.
    """

    def __init__(self, keys: Mapping[str, bytes]) -> None:
        for key_id, key in keys.items():
            if not _KEY_ID.fullmatch(key_id):
                raise ConfigurationError("the id of a key is 1 to 64 letters, digits and . _ -")
            if len(key) != _KEY_BYTES:
                raise ConfigurationError(
                    f"the key {key_id} has {len(key)} bytes instead of {_KEY_BYTES}:"
                    " rio.storage.Keyring.generate() makes one"
                )
        if not keys:
            raise ConfigurationError("a keyring needs a key: rio.storage.Keyring.generate()")
        self._keys = {key_id: bytes(key) for key_id, key in keys.items()}

    @classmethod
    def from_file(cls, path: str | os.PathLike[str]) -> Self:
        """Read the keys from a file that only its owner may read, one on a line. Lines that begin
        with ``#`` are comments.

        :raises ConfigurationError: there is no such file, others may read it, or it has something
            else in it.
        """
        return cls(_read(read_private(Path(path)), str(path)))

    @classmethod
    def from_environment(cls, variable: str = "RIO_KEYS") -> Self:
        """Read the keys from a variable of the environment.

        :raises ConfigurationError: it is not set, or has something else in it.
        """
        if variable not in os.environ:
            raise ConfigurationError(f"the environment has no {variable} with the keys of states")
        return cls(_read(os.environ[variable], variable))

    @staticmethod
    def generate(key_id: str | None = None) -> str:
        """A new key as the text ``ID:BASE64``; by default with a random id.

        Append it to the file of a keyring: ``python -c "from rio.storage import Keyring;
        print(Keyring.generate())"``.
        """
        key_id = key_id or secrets.token_hex(4)
        key = secrets.token_bytes(_KEY_BYTES)
        Keyring({key_id: key})
        return f"{key_id}:{base64.b64encode(key).decode()}"

    @property
    def ids(self) -> list[str]:
        """The ids of the keys. That of the key which writes is the first."""
        return list(self._keys)

    def __repr__(self) -> str:
        return f"Keyring({', '.join(self._keys)})"

    def __reduce__(self) -> NoReturn:
        raise TypeError("a keyring cannot be pickled, since its keys belong nowhere else")


def _read(text: str, source: str) -> dict[str, bytes]:
    """:raises ConfigurationError: an entry is no key. The text does not show it."""
    lines = [line for line in text.splitlines() if not line.lstrip().startswith("#")]
    entries = [entry.strip() for line in lines for entry in line.split(",") if entry.strip()]
    keys: dict[str, bytes] = {}
    for number, entry in enumerate(entries, 1):
        key_id, _, encoded = entry.partition(":")
        key = _decode(encoded)
        if not _KEY_ID.fullmatch(key_id) or len(key) != _KEY_BYTES:
            raise ConfigurationError(
                f"key {number} in {source} is not ID:KEY, the key of 32 bytes in base64:"
                " rio.storage.Keyring.generate() makes one"
            )
        if key_id in keys:
            raise ConfigurationError(f"{source} has two keys of the id {key_id}")
        keys[key_id] = key
    return keys


def _decode(encoded: str) -> bytes:
    try:
        return base64.b64decode(encoded.strip(), validate=True)
    except ValueError:
        return b""


class _Sealed(NamedTuple):
    """An encrypted state, taken apart."""

    head: bytes
    key_id: str
    version: int
    random: bytes
    rest: bytes


class EncryptedState(StateStorage):
    """A storage of states that keeps them encrypted in another one::

        keyring = rio.storage.Keyring.from_file("keys")
        async with rio.open_storage("postgres://db/bank") as storage:
            state = rio.storage.EncryptedState(storage.state, keyring)
            server = rio.Server(registry, storage=storage, state=state)

    ``inner`` is prepared and closed with it. Whoever reads the database sees type names, ids, names
    and sizes of states, their schemas and versions, and when they were written, but no value. A
    state that was changed, or copied from another object, another name or an older version, is
    refused with :class:`rio.errors.StateCorrupt`. An old copy of all that is stored of an object,
    with its version, cannot be told from what was saved last, and an object that was taken away
    from one that was never saved; nor can this of one of its states, if others were saved later.

    ``accept_plain``: read states too that are not encrypted, because they were saved before. Then
    whoever can write to the database can put any state there: encrypt them (``rio state
    migrate``), and leave it out again.

    :raises ConfigurationError: the package ``cryptography`` is not installed.
    """

    def __init__(
        self, inner: StateStorage, keyring: Keyring, *, accept_plain: bool = False
    ) -> None:
        self._cipher = _find_cipher()
        self._keys = keyring._keys
        self._writes = keyring.ids[0]
        self._head = b"%b%c%b" % (_FORM, len(self._writes), self._writes.encode())
        self._accept_plain = accept_plain
        self.inner: Final = inner
        """The storage that keeps the encrypted states."""
        self.volatile = inner.volatile
        self.atomic = inner.atomic

    def __repr__(self) -> str:
        return f"EncryptedState({self.inner!r})"

    async def prepare(self) -> None:
        await self.inner.prepare()

    async def close(self) -> None:
        await self.inner.close()

    async def adopt(self, cluster_id: str, *, instead_of: str = "") -> str:
        return await self.inner.adopt(cluster_id, instead_of=instead_of)

    @property
    def why_not_durable(self) -> str:
        return self.inner.why_not_durable

    @property
    def history(self) -> str:
        return self.inner.history

    def use_placement(self, placement: ObjectPlacement) -> None:
        self.inner.use_placement(placement)

    async def load_object(self, object_id: ObjectId, token: int) -> StoredObject:
        return self._open(object_id, await self.inner.load_object(object_id, token))

    async def read_object(self, object_id: ObjectId) -> StoredObject:
        return self._open(object_id, await self.inner.read_object(object_id))

    async def commit(self, object_id: ObjectId, token: int, version: int, batch: Batch) -> int:
        sealed = self._seal(object_id, version + 1, batch.states)
        return await self.inner.commit(object_id, token, version, sealed)

    async def rewrite_object(self, object_id: ObjectId, version: int, batch: Batch) -> bool:
        sealed = self._seal(object_id, version, batch.states)
        return await self.inner.rewrite_object(object_id, version, sealed)

    async def list_objects(
        self, type_name: str, *, prefix: str = "", after: str = "", limit: int = 1000
    ) -> Sequence[str]:
        return await self.inner.list_objects(type_name, prefix=prefix, after=after, limit=limit)

    async def encrypt_anew(self, object_id: ObjectId) -> bool:
        """Encrypt the states of an object under the first key, if any of them is under another one,
        or plain. Returns whether any was. Whoever has the object loaded goes on.

        ``rio state migrate`` does this for all objects. When there are no such states, and no
        program writes under another key any more, the other keys can go.

        :raises StateCorrupt: a state is not what was saved, or it is plain and that is not
            accepted.
        :raises UnknownKey: the key of a state is not there.
        :raises Unsupported: the inner storage cannot read, or rewrite, without a fence.
        """
        while True:
            stored = await self.inner.read_object(object_id)
            opened = self._open(object_id, stored)  # all of it, or nothing is rewritten
            old = {
                name: opened.states[name]
                for name, state in stored.states.items()
                if not state.data.startswith(self._head)
            }
            if not old:
                return False
            if await self.rewrite_object(object_id, stored.version, Batch(old)):
                return True
            # Its server has saved it meanwhile.

    def _seal(self, object_id: ObjectId, version: int, states: Mapping[str, StoredState]) -> Batch:
        head = self._head + version.to_bytes(8, "big")
        return Batch(
            {
                name: StoredState(self._encrypt(head, object_id, name, state), state.schema)
                for name, state in states.items()
            }
        )

    def _encrypt(self, head: bytes, object_id: ObjectId, name: str, state: StoredState) -> bytes:
        random = os.urandom(_RANDOM_BYTES)
        cipher = self._cipher_of(self._writes, random)
        context = _context(head, object_id, name, state.schema)
        return head + random + cipher.encrypt(random[_SALT_BYTES:], state.data, context)

    def _cipher_of(self, key_id: str, random: bytes) -> AESGCM:
        return self._cipher(hmac.digest(self._keys[key_id], random[:_SALT_BYTES], "sha256"))

    def _open(self, object_id: ObjectId, stored: StoredObject) -> StoredObject:
        """:raises StateCorrupt: a state is not what was saved under this name, or all are older
            than the object.
        :raises UnknownKey: the key of a state is not there.
        """
        opened, versions = {}, []
        for name, state in stored.states.items():
            if self._accept_plain and not _is_sealed(state):
                versions.append(stored.version)
                opened[name] = state
                continue
            sealed = _take_apart(object_id, name, state)
            versions.append(sealed.version)
            opened[name] = StoredState(
                self._decrypt(object_id, name, state.schema, sealed), state.schema
            )
        if stored.version and max(versions, default=0) != stored.version:
            raise StateCorrupt(
                f"{object_id} has version {stored.version}, and its states were saved with version"
                f" {max(versions, default=0)}: somebody has put older ones back, or taken some away"
            )
        return StoredObject(stored.version, opened)

    def _decrypt(self, object_id: ObjectId, name: str, schema: int, sealed: _Sealed) -> bytes:
        from cryptography.exceptions import InvalidTag

        if sealed.key_id not in self._keys:
            raise UnknownKey(
                f"the state {name!r} of {object_id} is encrypted under the key {sealed.key_id!r},"
                f" and the keyring has {', '.join(self._keys)}: add that key to the keyring, behind"
                " the first one"
            )
        cipher = self._cipher_of(sealed.key_id, sealed.random)
        context = _context(sealed.head, object_id, name, schema)
        try:
            return cipher.decrypt(sealed.random[_SALT_BYTES:], sealed.rest, context)
        except InvalidTag:
            raise StateCorrupt(
                f"the state {name!r} of {object_id} is not what was saved there under the key"
                f" {sealed.key_id!r}: its bytes were changed or come from elsewhere, or the key is"
                " another one of the same id"
            ) from None


def _is_sealed(state: StoredState) -> bool:
    return state.data[:1] == ENCRYPTED


def _take_apart(object_id: ObjectId, name: str, state: StoredState) -> _Sealed:
    """:raises StateCorrupt: the bytes have another form."""
    data = state.data
    if not _is_sealed(state):
        raise StateCorrupt(
            f"the state {name!r} of {object_id} is not encrypted. If it was saved before states"
            " were, read it with rio.storage.EncryptedState(..., accept_plain=True); else somebody"
            " has put it there"
        )
    start = len(_FORM) + 1
    end = start + (data[len(_FORM)] if len(data) > len(_FORM) else 0)
    head, random = data[: end + 8], data[end + 8 : end + 8 + _RANDOM_BYTES]
    if not data.startswith(_FORM) or len(random) < _RANDOM_BYTES:
        raise StateCorrupt(f"the state {name!r} of {object_id} is encrypted in no form of rio")
    key_id = data[start:end].decode(errors="backslashreplace")
    version = int.from_bytes(data[end : end + 8], "big")
    return _Sealed(head, key_id, version, random, data[end + 8 + _RANDOM_BYTES :])


def _context(head: bytes, object_id: ObjectId, name: str, schema: int) -> bytes:
    """What a state was saved as."""
    return msgspec.msgpack.encode((head, object_id.type_name, object_id.id, name, schema))


def _find_cipher() -> type[AESGCM]:
    """:raises ConfigurationError: the package is not installed."""
    try:
        from cryptography.hazmat.primitives.ciphers.aead import AESGCM
    except ImportError as error:
        raise ConfigurationError(
            f"encrypted states need the package cryptography ({error}):"
            " pip install 'rio-actors[crypto]'"
        ) from error
    return AESGCM
