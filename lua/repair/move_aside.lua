--[[
Moves a key out of the way that is not of the type that it should be.

KEYS  1 key   2 its name from now on
ARGV  1 type that it should be

Reply: the type that it was, nil where it is right, or not there
]]

local found = redis.call('TYPE', KEYS[1])
found = found.ok or found
if found == 'none' or found == ARGV[1] then
  return false
end
redis.call('RENAME', KEYS[1], KEYS[2])
return found
