--[[
Makes the event of what another program has done to a value, and brings the shadow up to date. Called for a value that has not
been changed, it does nothing.

KEYS, ARGV and reply are those of values/set.lua with foreign writes watched, without the value; `OK` comes without an old text.
]]

--- @include "values/name_arguments"
--- @include "sessions/recognise"
--- @include "fleet/check_routes"

if not shadow then
  return {'OK'}
end
local expired, old, new = false, redis.call('HGET', shadow, key), redis.call('HGET', values, key)
if old == new then
  return {'OK'}
end
cause = 'foreign'
local all_checked, queued = true, nil
--- @include "queues/check_room"
--- @include "values/check_log"
redis.call('SCARD', scopes)

if not new then
  redis.call('HDEL', shadow, key) -- when memory is full, what goes has to go on
end
--- @include "queues/enqueue"
--- @include "values/log_change"
if new then
  redis.call('HSET', shadow, key, new)
  redis.call('SADD', scopes, scope)
elseif redis.call('EXISTS', values, shadow) == 0 then
  redis.call('SREM', scopes, scope)
end
redis.call('HSET', session, slot, sequence .. '-')
return {'OK'}
