--[[
Reads a value of a scope that has deadlines.

KEYS  1 values of the scope (hash)   2 deadlines of its keys (sorted set)   3 clock (hash)
ARGV  1 key

Reply: the text, or nil for a missing key and for a value whose deadline is over
]]

local deadline = redis.call('ZSCORE', KEYS[2], ARGV[1])
if deadline then
  local clock = KEYS[3]
  --- @include "fleet/now"
  if tonumber(deadline) <= now then
    return false
  end
end
return redis.call('HGET', KEYS[1], ARGV[1])
