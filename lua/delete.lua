--[[
Removes a value, atomically with the events of the write. A missing key is an event all the same.

KEYS, ARGV and reply are those of set.lua, without the value.

The value goes first: when memory is full, Redis refuses a script's first write if it could need some, and none after it.
Everything that could fail for another reason is looked at before.
]]

--- @include "session"
--- @include "routes"
--- @include "arguments"

local old, new, failures = redis.call('HGET', KEYS[1], ARGV[6]), false, ''
--- @include "unseen"
local all_checked = true
--- @include "room"
local scope_ends = old and redis.call('HLEN', KEYS[1]) == 1 and redis.call('SCARD', KEYS[2])

if shadow then
  redis.call('HDEL', shadow, ARGV[6])
  redis.call('PUBLISH', marks, KEYS[1])
end
redis.call('HDEL', KEYS[1], ARGV[6])
if shadow then
  redis.call('PUBLISH', marks, '')
  scope_ends = scope_ends and redis.call('EXISTS', shadow) == 0 -- else what others have removed is still to be noticed
end
--- @include "enqueue"
if scope_ends then
  redis.call('SREM', KEYS[2], ARGV[5])
end
--- @include "record"
return {'OK', old}
