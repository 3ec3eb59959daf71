"""Storages in Redis, or Valkey.

Each operation is one Lua script, which is atomic. Its answer says who owns what, so that a caller
who repeats an operation after a lost answer recognises its own result. Nothing is repeated here.
Operations that wait at the same moment go to the server in one write, and claims, lookups and
releases as one script each. The lease has a connection of its own.

Versions, generations and tokens are at least the server's time in microseconds, so they grow even
if Redis loses what it held. It may lose everything else, so it must have an append-only file. Its
replication is asynchronous: a replica may lack the newest writes when it takes over.

The keys of one role share a hash tag, so that each script finds all its keys on one server. Parts
of names are prefixed by their length, so that no two names meet.

Importing this module loads the driver, redis-py.
"""

from rio.storage.redis.database import RedisDatabase, RedisStatistics
from rio.storage.redis.roles import RedisMembershipStorage, RedisObjectPlacement, RedisState

__all__ = [
    "RedisDatabase",
    "RedisMembershipStorage",
    "RedisObjectPlacement",
    "RedisState",
    "RedisStatistics",
]
