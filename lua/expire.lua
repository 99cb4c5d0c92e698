--[[
Removes a value whose deadline is over, atomically with its event. Where there is no such value any more, nothing happens.

KEYS, ARGV and reply are those of set.lua, without the value; the milliseconds are ''. The order of writes is that of delete.lua.
]]

--- @include "session"
--- @include "routes"
--- @include "arguments"

local deadline = deadlines and redis.call('ZSCORE', deadlines, ARGV[6])
--- @include "now"
if not deadline or tonumber(deadline) > now then
  return {'OK', false}
end
local old, new, failures = redis.call('HGET', KEYS[1], ARGV[6]), false, ''
if not old then -- another program has removed it
  redis.call('ZREM', deadlines, ARGV[6])
  return {'OK', false}
end
local expired, all_checked = false, true
--- @include "room"
local scope_ends = redis.call('HLEN', KEYS[1]) == 1 and redis.call('SCARD', KEYS[2])

redis.call('HDEL', KEYS[1], ARGV[6])
redis.call('ZREM', deadlines, ARGV[6])
--- @include "enqueue"
if scope_ends then
  redis.call('SREM', KEYS[2], ARGV[5])
end
--- @include "record"
return {'OK', old}
