--[[
Removes a value whose deadline is over, atomically with its event. Where there is no such value any more, nothing happens.

KEYS, ARGV and reply are those of values/set.lua, without the value; ttl is ''.
]]

--- @include "values/name_arguments"
--- @include "sessions/recognise"
--- @include "fleet/check_routes"

local old, new, failures = redis.call('HGET', values, key), false, ''
--- @include "foreign/check_captured"
--- @include "deadlines/apply_deadline"
if not expired then
  if is_over then -- another program has removed it
    redis.call('ZREM', scope_deadlines, key)
  end
  return {'OK', false}
end
old, expired, cause = expired, false, 'expired'
--- @include "values/remove"
if revision then
  return {'OK', old, revision}
end
return {'OK', old}
