--[[
Reads a scope at one instant, if it is small enough for that.

KEYS  1 values (hash)   2 scope_deadlines (sorted set)   3 clock (hash)   4 clock_copy (string); the last three
      where it has deadlines
ARGV  1 most_values   2 most_bytes: of keys and values   3 with_deadlines: '1' for the deadlines, too (optional)

Reply: keys and values in turn (a key may come twice), without those whose deadline is over, or nil for a larger scope;
with_deadlines: keys, values and deadlines ('' for none)
]]

local values, scope_deadlines, clock, clock_copy = KEYS[1], KEYS[2], KEYS[3], KEYS[4]
local most_values, most_bytes, with_deadlines = tonumber(ARGV[1]), tonumber(ARGV[2]), ARGV[3]

if redis.call('HLEN', values) > most_values then
  return false
end
local found, bytes, cursor = {}, 0, '0'
repeat
  local page = redis.call('HSCAN', values, cursor, 'COUNT', 50)
  cursor = page[1]
  for _, text in ipairs(page[2]) do
    found[#found + 1] = text
    bytes = bytes + #text
  end
  if bytes > most_bytes then
    return false
  end
until cursor == '0'
if scope_deadlines then
  --- @include "deadlines/unexpired"
  return unexpired(found, scope_deadlines, clock, clock_copy, with_deadlines)
end
return found
