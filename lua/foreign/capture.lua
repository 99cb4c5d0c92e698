--[[
Makes the event of what another program has done to a value, and brings the shadow up to date. Called for a value that has not
been changed, it does nothing.

KEYS, ARGV and reply are those of values/set.lua with foreign writes watched, without the value; `OK` comes without an old text.
]]

--- @include "sessions/session"
--- @include "fleet/routes"
--- @include "values/arguments"

if not shadow then
  return {'OK'}
end
local expired, old, new = false, redis.call('HGET', shadow, ARGV[6]), redis.call('HGET', KEYS[1], ARGV[6])
if old == new then
  return {'OK'}
end
local all_checked = true
--- @include "queues/room"
redis.call('SCARD', KEYS[2])

if not new then
  redis.call('HDEL', shadow, ARGV[6]) -- when memory is full, what goes has to go on
end
--- @include "queues/enqueue"
if new then
  redis.call('HSET', shadow, ARGV[6], new)
  redis.call('SADD', KEYS[2], ARGV[5])
elseif redis.call('EXISTS', KEYS[1], shadow) == 0 then
  redis.call('SREM', KEYS[2], ARGV[5])
end
redis.call('HSET', KEYS[3], ARGV[2], ARGV[3] .. '-')
return {'OK'}
