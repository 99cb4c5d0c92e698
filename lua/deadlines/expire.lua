--[[
Removes a value whose deadline is over, atomically with its event. Where there is no such value any more, nothing happens.

KEYS, ARGV and reply are those of values/set.lua, without the value; the milliseconds are ''.
]]

--- @include "sessions/session"
--- @include "fleet/routes"
--- @include "values/arguments"

local old, new, failures = redis.call('HGET', KEYS[1], ARGV[6]), false, ''
--- @include "foreign/captured"
--- @include "deadlines/deadline"
if not expired then
  if is_over then -- another program has removed it
    redis.call('ZREM', deadlines, ARGV[6])
  end
  return {'OK', false}
end
old, expired = expired, false
--- @include "values/remove"
return {'OK', old}
