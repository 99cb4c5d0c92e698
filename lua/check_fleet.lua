--[[
Looks whether the keys of the fleet are of the types that they should be, and makes good what has one right value only.

KEYS  1 format   2 store   3 hold   4 routes (hash)   then more keys
ARGV  1 version of the layout   2 id of what is stored here   3 milliseconds that a hold lasts at most   then the type of each key

Reply: 1 where the routes are there, else 0; and an array of the numbers of the keys (from 1) that are of another type
]]

local wrong = {}
for number, key in ipairs(KEYS) do
  local found = redis.call('TYPE', key)
  found = found.ok or found
  if found ~= 'none' and found ~= ARGV[3 + number] then
    wrong[#wrong + 1] = number
  end
end
if wrong[1] then
  return {1, wrong}
end
redis.call('SET', KEYS[1], ARGV[1], 'NX')
redis.call('SET', KEYS[2], ARGV[2], 'NX')
local holds = redis.call('PTTL', KEYS[3])
if holds == -1 or holds > tonumber(ARGV[3]) then
  redis.call('DEL', KEYS[3])
end
return {redis.call('HEXISTS', KEYS[4], ':began'), wrong}
