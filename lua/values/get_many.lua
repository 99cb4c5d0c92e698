--[[
Reads values of a scope that has deadlines, at one instant.

KEYS  1 values (hash)   2 scope_deadlines (sorted set)   3 clock (hash)   4 clock_copy (string)
ARGV  the keys, 1,000 at most

Reply: their texts, in the same order; nil for a missing key and for a value whose deadline is over
]]

local values, scope_deadlines, clock, clock_copy = KEYS[1], KEYS[2], KEYS[3], KEYS[4]

--- @include "fleet/time"
local found = redis.call('HMGET', values, unpack(ARGV))
local now = fleet_time(clock, clock_copy)
for place, deadline in ipairs(redis.call('ZMSCORE', scope_deadlines, unpack(ARGV))) do
  if deadline and tonumber(deadline) <= now then
    found[place] = false
  end
end
return found
