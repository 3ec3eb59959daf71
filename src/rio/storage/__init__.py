"""Where a cluster keeps what it knows: members, placements and states, on one back end or several.

:func:`open_storage` opens all roles from one URL, or each role from a URL of its own. Each back end
has a module here (:mod:`rio.storage.local`, :mod:`rio.storage.sqlite`, :mod:`rio.storage.postgres`,
:mod:`rio.storage.redis`, :mod:`rio.storage.http`). Importing ``rio.storage`` loads no driver.
:class:`EncryptedState` encrypts the states that one of them keeps.
"""

from rio.storage._migrations import SchemaStatus
from rio.storage.encrypted import EncryptedState, Keyring
from rio.storage.migration import migrate, read_schemas
from rio.storage.storage import Storage, open_storage

__all__ = [
    "EncryptedState",
    "Keyring",
    "SchemaStatus",
    "Storage",
    "migrate",
    "open_storage",
    "read_schemas",
]
