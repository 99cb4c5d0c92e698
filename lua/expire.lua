--[[
Removes a value whose deadline is over, atomically with its event. Where there is no such value any more, nothing happens.

KEYS, ARGV and reply are those of set.lua, without the value; the milliseconds are ''.
]]

--- @include "session"
--- @include "routes"
--- @include "arguments"

local old, new, failures = redis.call('HGET', KEYS[1], ARGV[6]), false, ''
--- @include "unseen"
--- @include "deadline"
if not expired then
  if is_over then -- another program has removed it
    redis.call('ZREM', deadlines, ARGV[6])
  end
  return {'OK', false}
end
old, expired = expired, false
--- @include "remove"
return {'OK', old}
