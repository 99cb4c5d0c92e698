--[[
Looks whether lanes in which events wait are counted. Where one is not, the queue is in doubt from now on
(lib/queues/check_room.lua).

KEYS  1 busy (hash)   2 routes (hash)   then of each lane: wait (list)
ARGV  1 queue   then the lanes

Reply: how many are not
]]

local busy, routes = KEYS[1], KEYS[2]
local queue = ARGV[1]

local uncounted = 0
if redis.call('HEXISTS', routes, queue) == 1 then
  for number = 2, #ARGV do
    local lane, wait = ARGV[number], KEYS[1 + number]
    if redis.call('HEXISTS', busy, lane) == 0 and redis.call('EXISTS', wait) == 1 then
      uncounted = uncounted + 1
    end
  end
end
if uncounted > 0 then
  redis.call('HSET', busy, 'doubt', '1')
end
return uncounted
