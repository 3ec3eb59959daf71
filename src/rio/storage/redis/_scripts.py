"""The operations on Redis, as Lua scripts.

Statuses are the numbers of :class:`rio.contracts.MemberStatus`: 1 is ``ACTIVE``, 2 ``DRAINING``,
4 ``LEFT`` and 5 ``DEAD``.
"""

from __future__ import annotations

import hashlib


class Script:
    """A Lua script.

    ``many``: it takes the arguments of any number of rows, and answers with a list that has an
    element for each row. ``own_keys``: how many of the last keys each row has for itself; all other
    keys are the same for all rows, and stand before them.
    """

    def __init__(self, text: str, *, many: bool = False, own_keys: int = 0) -> None:
        self.text = text.encode()
        self.many = many
        self.own_keys = own_keys
        self.digest = hashlib.sha1(self.text, usedforsecurity=False).hexdigest().encode()


_NUMBERS = """
local function next_after(high)  -- larger than any number before, even if those were lost
    local time = redis.call('TIME')
    return math.max(high + 1, time[1] * 1000000 + time[2])
end
local function text(number) return string.format('%.0f', number) end
local function number(key, field)  -- nil if it is not there
    local value = redis.call('HGET', key, field)
    if value and not string.match(value, '^-?%d+$') then
        error('<damaged ' .. key .. ', field ' .. field .. '>')
    end
    return value and tonumber(value)
end
"""

_MEMBERS = (
    _NUMBERS
    + """
local cluster, addresses, statuses, leases, metadata, votes, manifests, digests = unpack(KEYS)
local function raise_version()
    redis.call('HSET', cluster, 'version', text(next_after(number(cluster, 'version') or 0)))
end
local function status_of(generation)  -- 9 if it is not there
    return number(statuses, generation) or 9
end
local function member(generation)
    local status = redis.call('HGET', statuses, generation)
    if not status then return {} end
    return {generation, redis.call('HGET', addresses, generation), status,
            redis.call('HGET', leases, generation), redis.call('HGET', metadata, generation),
            redis.call('HGET', votes, generation), redis.call('HGET', digests, generation)}
end
local function snapshot()
    local all = redis.call('HKEYS', statuses)
    for index, generation in ipairs(all) do all[index] = member(generation) end
    local row = redis.call('HMGET', cluster, 'version', 'generation', 'id', 'settings')
    return {row[1] or '0', row[2] or '0', row[3], row[4] or '', all}
end
local function end_members(address)  -- of one address, or all
    for _, generation in ipairs(redis.call('HKEYS', statuses)) do
        local status = status_of(generation)
        if status ~= 4 and status ~= 5
            and (not address or redis.call('HGET', addresses, generation) == address) then
            redis.call('HSET', statuses, generation, 5)
        end
    end
end
"""
)

MAKE_ID = Script(  # a user that may only read has nothing to do here
    _MEMBERS
    + """
return redis.call('HGET', cluster, 'id') and 0 or redis.call('HSETNX', cluster, 'id', ARGV[1])
"""
)
REGISTER = Script(
    _MEMBERS
    + """
local address, about, no_votes, new_id, manifest, digest, schema = unpack(ARGV)
local row = redis.call('HMGET', KEYS[#KEYS], 'version', 'migrating')
if row[2] or (row[1] and row[1] ~= schema) then return {row} end  -- migrated meanwhile
redis.call('HSETNX', cluster, 'id', new_id)  -- if somebody has emptied the database meanwhile
end_members(address)
local generation = text(next_after(number(cluster, 'generation') or 0))
redis.call('HSET', cluster, 'generation', generation)
redis.call('HSET', addresses, generation, address)
redis.call('HSET', statuses, generation, 0)
redis.call('HSET', leases, generation, 0)
redis.call('HSET', metadata, generation, about)
redis.call('HSET', votes, generation, no_votes)
redis.call('HSET', manifests, generation, manifest)
redis.call('HSET', digests, generation, digest)
raise_version()
return {row, generation, snapshot()}
"""
)
RENEW = Script(
    _MEMBERS
    + """
if status_of(ARGV[1]) > 2 then return {} end
number(leases, ARGV[1])
return {redis.call('HINCRBY', leases, ARGV[1], 1), redis.call('HGET', cluster, 'id')}
"""
)
SNAPSHOT = Script(_MEMBERS + "return snapshot()")
SET_STATUS = Script(
    _MEMBERS
    + """
local generation, expected, status, counter = unpack(ARGV)
local fits = redis.call('HGET', statuses, generation) == expected
if counter ~= '' then fits = fits and redis.call('HGET', leases, generation) == counter end
if fits then
    redis.call('HSET', statuses, generation, status)
    raise_version()
end
return {fits and 1 or 0, member(generation)}
"""
)
VOTE = Script(
    _MEMBERS
    + """
local generation, voter, expected, ballot = unpack(ARGV)
local function answer(fate) return {fate, member(generation)} end
local status = status_of(generation)
if status == 4 or status == 5 or status == 9 or status_of(voter) ~= 1 then
    return answer('refused')
end
if redis.call('HGET', votes, generation) ~= expected then return answer('changed') end
redis.call('HSET', votes, generation, ballot)
return answer('counted')
"""
)
SET_MANIFEST = Script(
    _MEMBERS
    + """
local generation, manifest, digest = unpack(ARGV)
local status = status_of(generation)
if status == 4 or status == 5 or status == 9 then return 0 end
redis.call('HSET', manifests, generation, manifest)
redis.call('HSET', digests, generation, digest)
raise_version()
return 1
"""
)
READ_MANIFESTS = Script(_MEMBERS + "return redis.call('HMGET', manifests, unpack(ARGV))")
SET_SETTINGS = Script(
    _MEMBERS
    + """
if (redis.call('HGET', cluster, 'version') or '0') ~= ARGV[2] then return 0 end
redis.call('HSET', cluster, 'settings', ARGV[1])
raise_version()
return 1
"""
)
CHANGE_CLUSTER_ID = Script(
    _MEMBERS
    + """
end_members()
redis.call('HSET', cluster, 'id', ARGV[1])
raise_version()
return snapshot()
"""
)
PURGE = Script(
    _MEMBERS
    + """
local status = status_of(ARGV[1])
if status ~= 4 and status ~= 5 then return 0 end
for _, column in ipairs({addresses, statuses, leases, metadata, votes, manifests, digests}) do
    redis.call('HDEL', column, ARGV[1])
end
raise_version()
return 1
"""
)

ADOPT = Script("""
local recorded = redis.call('HGET', KEYS[1], 'adopted_by')
if recorded and recorded ~= ARGV[2] then return recorded end
redis.call('HSET', KEYS[1], 'adopted_by', ARGV[1])
return ARGV[1]
""")

_PLACEMENTS = """
local placements, owned = unpack(KEYS)
local answers = {}
local function read(object)
    local row = redis.call('HGET', placements, object)
    if row then return row, string.match(row, '^(%d+):(%d+)$') end
end
"""

CLAIM = Script(
    _NUMBERS
    + _PLACEMENTS
    + """
local high = number(placements, '') or 0
local before = high
for index = 1, #ARGV, 3 do
    local object, generation, supersede = ARGV[index], ARGV[index + 1], ARGV[index + 2]
    local row, owner, token = read(object)
    if not row or owner == generation or token == supersede then
        high = next_after(high)
        row = generation .. ':' .. text(high)
        redis.call('HSET', placements, object, row)
        redis.call('ZADD', owned, generation, object)
    end
    answers[#answers + 1] = row
end
if high > before then redis.call('HSET', placements, '', text(high)) end
return answers
""",
    many=True,
)
LOOKUP = Script(
    _PLACEMENTS
    + """
for index, object in ipairs(ARGV) do
    answers[index] = redis.call('HGET', placements, object)
end
return answers
""",
    many=True,
)
RELEASE = Script(
    _PLACEMENTS
    + """
for index = 1, #ARGV, 2 do
    local object = ARGV[index]
    local row, owner, token = read(object)
    local mine = row and token == ARGV[index + 1]
    if mine then
        redis.call('HDEL', placements, object)
        redis.call('ZREM', owned, object)
    end
    answers[#answers + 1] = mine and 1 or 0
end
return answers
""",
    many=True,
)
OWNED_BY = Script("return redis.call('ZRANGEBYSCORE', KEYS[2], ARGV[1], ARGV[1])")

RELEASE_SOME = Script(
    _PLACEMENTS
    + """
local objects = redis.call('ZRANGEBYSCORE', owned, ARGV[1], ARGV[1], 'LIMIT', 0, 1000)
if #objects > 0 then
    redis.call('HDEL', placements, unpack(objects))
    redis.call('ZREM', owned, unpack(objects))
end
return #objects
"""
)

# An object is a hash: its token, its version, and each state under its name after a colon. A key
# that holds something else is the fault of its row alone, so it is read with pcall.
LOAD = Script(
    """
local answers = {}
for index, key in ipairs(KEYS) do
    local fence = redis.pcall('HGET', key, 'token')
    if type(fence) == 'table' then
        answers[index] = fence
    elseif not fence then
        answers[index] = {}
    elseif not tonumber(fence) or tonumber(fence) > tonumber(ARGV[index]) then
        answers[index] = {fence}
    else
        redis.call('HSET', key, 'token', ARGV[index])
        answers[index] = redis.call('HGETALL', key)
    end
end
return answers
""",
    many=True,
    own_keys=1,
)
COMMIT = Script(
    """
local placements, ids = KEYS[1], KEYS[2]
local answers, position = {}, 0
local function take(count)
    local first = position + 1
    position = position + count
    return unpack(ARGV, first, position)
end
local function owns(object, token)
    local row = redis.call('HGET', placements, object)
    return row and string.match(row, ':(%d+)$') == token
end
for index = 3, #KEYS do
    local key = KEYS[index]
    local object, as_owner, token, version, next_version, count = take(6)
    local changes = {take(tonumber(count))}
    local stored = redis.pcall('HMGET', key, 'token', 'version')
    local good
    if version == '0' then
        good = not stored[1] and (as_owner == '0' or owns(object, token))
    else
        good = stored[1] == token and stored[2] == version
    end
    if stored.err then
        answers[#answers + 1] = stored
    elseif good then
        redis.call('HSET', key, 'token', token, 'version', next_version, unpack(changes))
        if version == '0' then redis.call('ZADD', ids, 0, object) end
        answers[#answers + 1] = 1
    else
        answers[#answers + 1] = 0
    end
end
return answers
""",
    many=True,
    own_keys=1,
)
READ = Script("return redis.call('HGETALL', KEYS[1])")
REWRITE = Script("""
if redis.call('HGET', KEYS[1], 'version') ~= ARGV[1] then return 0 end
redis.call('HSET', KEYS[1], unpack(ARGV, 2))
return 1
""")
LIST = Script("return redis.call('ZRANGEBYLEX', KEYS[1], ARGV[1], '+', 'LIMIT', 0, ARGV[2])")

TELL_SETTINGS = Script("return redis.call('INFO', 'persistence') .. redis.call('INFO', 'memory')")

SCRIPTS = [
    TELL_SETTINGS,
    MAKE_ID,
    REGISTER,
    RENEW,
    SNAPSHOT,
    SET_STATUS,
    VOTE,
    SET_MANIFEST,
    READ_MANIFESTS,
    SET_SETTINGS,
    CHANGE_CLUSTER_ID,
    PURGE,
    ADOPT,
    CLAIM,
    LOOKUP,
    RELEASE,
    RELEASE_SOME,
    OWNED_BY,
    LOAD,
    COMMIT,
    READ,
    REWRITE,
    LIST,
]
"""All of them. A connection loads them when it is made."""
