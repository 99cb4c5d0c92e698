--[[
Tells of which scopes all values are over: they are there still, but are not seen any more.

KEYS  then of each scope: values (hash), scope_deadlines (sorted set)   last: clock (hash), clock_copy (string)
ARGV  each scope, in the same order

Reply: those scopes
]]

local clock, clock_copy = KEYS[#KEYS - 1], KEYS[#KEYS]

--- @include "fleet/time"
local now = fleet_time(clock, clock_copy)
local over = {}
for number, scope in ipairs(ARGV) do
  local values, scope_deadlines = KEYS[2 * number - 1], KEYS[2 * number]
  local count = redis.call('HLEN', values)
  if redis.call('ZCOUNT', scope_deadlines, '-inf', now) >= count then
    -- Another program may have removed values that had a deadline, but hardly more than so many.
    local looked_at, found = 0, 0
    for _, key in ipairs(redis.call('ZRANGEBYSCORE', scope_deadlines, '-inf', now, 'LIMIT', 0, 5000)) do
      looked_at, found = looked_at + 1, found + redis.call('HEXISTS', values, key)
    end
    if found == count or looked_at == 5000 and found == looked_at then
      over[#over + 1] = scope
    end
  end
end
return over
