--[[
Drops a dead letter.

KEYS  1 dead (stream)   2 dead_queues (set)
ARGV  1 queue   2 id: of the dead letter

Reply: 1, or 0 where there is no such dead letter
]]

local dead, dead_queues = KEYS[1], KEYS[2]
local queue, id = ARGV[1], ARGV[2]

redis.call('SCARD', dead_queues)
local dropped = redis.call('XDEL', dead, id)
if redis.call('XLEN', dead) == 0 then
  redis.call('DEL', dead)
  redis.call('SREM', dead_queues, queue)
end
return dropped
