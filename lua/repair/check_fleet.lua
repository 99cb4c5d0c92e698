--[[
Looks whether the keys of the fleet are of the types that they should be, and makes good what has one right value only.

KEYS  1 format   2 store   3 routes (hash)   4, 5, 6 keys that somebody holds for a moment   then more keys
ARGV  1 version of the layout   2 id of what is stored here   3, 4, 5 milliseconds for which each of those is held at most: it is
      free where that has been exceeded, as when Redis's clock was set back   then the type of each key

Reply: 1 where the routes are there, else 0; and an array of the numbers of the keys (from 1) that are of another type
]]

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
redis.call('SET', KEYS[1], ARGV[1], 'NX')
redis.call('SET', KEYS[2], ARGV[2], 'NX')
for lock = 4, 6 do
  local held_for = redis.call('PTTL', KEYS[lock])
  if held_for == -1 or held_for > tonumber(ARGV[lock - 1]) then
    redis.call('DEL', KEYS[lock])
  end
end
return {redis.call('HEXISTS', KEYS[3], ':began'), wrong}
