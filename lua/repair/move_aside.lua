--[[
Moves a key out of the way that is not of the type that it should be.

KEYS  1 key   2 aside: its name from now on
ARGV  1 kind: the type that it should be   2 counts: '1' where it is what is counted of a queue, which is in doubt from then on
      (lib/queues/check_room.lua)

Reply: the type that it was, nil where it is right, or not there
]]

local key, aside = KEYS[1], KEYS[2]
local kind, counts = ARGV[1], ARGV[2]

local found = redis.call('TYPE', key)
found = found.ok or found
if found == 'none' or found == kind then
  return false
end
redis.call('RENAME', key, aside)
if counts == '1' then
  redis.call('HSET', key, 'doubt', '1')
end
return found
