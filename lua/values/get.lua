--[[
Reads a value of a scope that has deadlines.

KEYS  1 values (hash)   2 scope_deadlines (sorted set)   3 clock (hash)
ARGV  1 key

Reply: the text, or nil for a missing key and for a value whose deadline is over
]]

local values, scope_deadlines, clock = KEYS[1], KEYS[2], KEYS[3]
local key = ARGV[1]

local deadline = redis.call('ZSCORE', scope_deadlines, key)
if deadline then
  --- @include "fleet/time"
  local now = fleet_time(clock)
  if tonumber(deadline) <= now then
    return false
  end
end
return redis.call('HGET', values, key)
