--[[
Looks whether the keys of the fleet are of the types that they should be, and makes good what has one right value only.

KEYS  1 format (string)   2 store (string)   3 routes (hash)   4 hold (string)   5 filling (string)   6 scanning (string), the
      last three held by an engine for a moment   then more keys
ARGV  1 layout: its version   2 store_id: of what is stored here   3 hold_ms   4 filling_ms   5 scanning_ms: for so long each of
      those is held at most; it is free where that has been exceeded, as when Redis's clock was set back   then the type of each key

Reply: 1 where the routes are there, else 0; and an array of the numbers of the keys (from 1) that are of another type
]]

local format, store, routes, hold, filling, scanning = KEYS[1], KEYS[2], KEYS[3], KEYS[4], KEYS[5], KEYS[6]
local layout, store_id = ARGV[1], ARGV[2]
local hold_ms, filling_ms, scanning_ms = tonumber(ARGV[3]), tonumber(ARGV[4]), tonumber(ARGV[5])

local wrong = {}
for number, key in ipairs(KEYS) do
  local found = redis.call('TYPE', key)
  found = found.ok or found
  if found ~= 'none' and found ~= ARGV[5 + number] then
    wrong[#wrong + 1] = number
  end
end
if wrong[1] then
  return {1, wrong}
end
redis.call('SET', format, layout, 'NX')
redis.call('SET', store, store_id, 'NX')
for _, lock in ipairs({{hold, hold_ms}, {filling, filling_ms}, {scanning, scanning_ms}}) do
  local held_for = redis.call('PTTL', lock[1])
  if held_for == -1 or held_for > lock[2] then
    redis.call('DEL', lock[1])
  end
end
return {redis.call('HEXISTS', routes, ':began'), wrong}
