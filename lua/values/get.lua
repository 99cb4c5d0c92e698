--[[
Reads a value of a scope that has deadlines.

KEYS  1 values (hash)   2 scope_deadlines (sorted set)   3 clock (hash)
ARGV  1 key   2 with_deadline: '1' for what is left of it, too (optional)

Reply: the text, or nil for a missing key and for a value whose deadline is over; with_deadline: that, and how many milliseconds are
left, nil where there is no deadline
]]

local values, scope_deadlines, clock = KEYS[1], KEYS[2], KEYS[3]
local key, with_deadline = ARGV[1], ARGV[2]

local deadline = redis.call('ZSCORE', scope_deadlines, key)
if deadline then
  --- @include "fleet/time"
  local now = fleet_time(clock)
  if tonumber(deadline) <= now then
    return with_deadline and {false, false}
  end
  if with_deadline then
    return {redis.call('HGET', values, key), tonumber(deadline) - now}
  end
elseif with_deadline then
  return {redis.call('HGET', values, key), false}
end
return redis.call('HGET', values, key)
