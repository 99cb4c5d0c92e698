--[[
Reads a scope at one instant, if it is small enough for that.

KEYS  1 values of the scope (hash)   2 deadlines of its keys (sorted set)   3 clock (hash); the last two where it has any
ARGV  1 most values   2 most bytes of keys and values

Reply: keys and values in turn (a key may come twice), without those whose deadline is over, or nil for a larger scope
]]

if redis.call('HLEN', KEYS[1]) > tonumber(ARGV[1]) then
  return false
end
local found, bytes, cursor = {}, 0, '0'
repeat
  local page = redis.call('HSCAN', KEYS[1], cursor, 'COUNT', 50)
  cursor = page[1]
  for _, text in ipairs(page[2]) do
    found[#found + 1] = text
    bytes = bytes + #text
  end
  if bytes > tonumber(ARGV[2]) then
    return false
  end
until cursor == '0'
local clock = KEYS[3]
--- @include "deadlines/unexpired"
return found
