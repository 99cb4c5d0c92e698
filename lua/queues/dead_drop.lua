--[[
Drops a dead letter.

KEYS  1 dead (stream)   2 queues with dead letters (set)
ARGV  1 queue   2 id of the dead letter

Reply: 1, or 0 where there is no such dead letter
]]

redis.call('SCARD', KEYS[2])
local dropped = redis.call('XDEL', KEYS[1], ARGV[2])
if redis.call('XLEN', KEYS[1]) == 0 then
  redis.call('DEL', KEYS[1])
  redis.call('SREM', KEYS[2], ARGV[1])
end
return dropped
