--[[
Looks whether lanes in which events wait are counted. Where one is not, the queue is in doubt from now on (lib/queues/room.lua).

KEYS  1 busy (hash)   2 routes (hash)   then of each lane: wait (list)
ARGV  1 queue   then the lanes

Reply: how many are not
]]

local uncounted = 0
if redis.call('HEXISTS', KEYS[2], ARGV[1]) == 1 then
  for number = 2, #ARGV do
    if redis.call('HEXISTS', KEYS[1], ARGV[number]) == 0 and redis.call('EXISTS', KEYS[1 + number]) == 1 then
      uncounted = uncounted + 1
    end
  end
end
if uncounted > 0 then
  redis.call('HSET', KEYS[1], 'doubt', '1')
end
return uncounted
