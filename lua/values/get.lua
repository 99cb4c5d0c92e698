--[[
Reads a value of a scope that has deadlines, or a change log.

KEYS  1 values (hash)   2 scope_deadlines (sorted set)   3 clock (hash)   4 clock_copy (string)
      then, where the scope has a change log and with_meta: revisions (hash)
ARGV  1 key   2 with_meta: '1' for more of it (optional)   3 generation: of the change log, where there is one

Reply: the text, or nil for a missing key and for a value whose deadline is over; with_meta: that; how many milliseconds are left,
nil where there is no deadline; its revision, nil where there is no change log, or the value is older than that
]]

local values, scope_deadlines, clock, clock_copy = KEYS[1], KEYS[2], KEYS[3], KEYS[4]
local key, with_meta, generation = ARGV[1], ARGV[2], ARGV[3]
local revisions = #KEYS > 4 and KEYS[#KEYS]

local deadline, left = redis.call('ZSCORE', scope_deadlines, key), false
if deadline then
  --- @include "fleet/time"
  local now = fleet_time(clock, clock_copy)
  left = tonumber(deadline) - now
  if left <= 0 then
    return with_meta and {false, false, false}
  end
end
local text = redis.call('HGET', values, key)
if not with_meta then
  return text
end
local held = revisions and redis.call('HMGET', revisions, 'generation', 'k' .. key)
return {text, left, text and held and held[1] == generation and tonumber(held[2] or nil) or false}
