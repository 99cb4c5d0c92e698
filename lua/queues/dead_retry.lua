--[[
Delivers a dead letter again, as a first attempt behind what waits in its lane. The queue's fence grows, so that nobody takes it
for the first attempt that there was before.

KEYS  1 stream of the queue   2 subscription (hash)   3 busy (hash)   4 wait (list of the lane)   5 dead (stream)
      6 queues with dead letters (set)
ARGV  1 queue   2 id of the dead letter   3 lane   4 most entries   5 most bytes

Reply, an array that begins with a word:
  OK             it is in its queue
  NONE           there is no such dead letter
  GONE           there is no such queue: nothing changed
  FULL bound     the queue has no room: nothing changed
]]

local letter = redis.call('XRANGE', KEYS[5], ARGV[2], ARGV[2])[1]
if not letter then
  return {'NONE'}
end
if redis.call('HEXISTS', KEYS[2], 'settings') == 0 or redis.call('HEXISTS', KEYS[2], 'ending') == 1 then
  return {'GONE'}
end
local event = letter[2]
local held = redis.call('HMGET', KEYS[3], ARGV[3], 'entries', 'bytes', 'doubt')
local outstanding, entries, bytes = tonumber(held[1] or 0), tonumber(held[2] or 0), tonumber(held[3] or 0)
if outstanding == 0 and (held[4] or not held[2] and redis.call('XLEN', KEYS[1]) > 0) then -- in doubt, see lib/queues/room.lua
  outstanding = 1 + math.floor(redis.call('LLEN', KEYS[4]) / 6)
  entries = entries + outstanding
end
local size = #event[4] + #event[6] + #event[10] + #event[12]
if entries >= tonumber(ARGV[4]) then
  return {'FULL', 'max_queue_length'}
elseif bytes + size > tonumber(ARGV[5]) then
  return {'FULL', 'max_queue_bytes'}
end
redis.call('XLEN', KEYS[1])
redis.call('LLEN', KEYS[4])

redis.call('XDEL', KEYS[5], ARGV[2])
if redis.call('XLEN', KEYS[5]) == 0 then
  redis.call('DEL', KEYS[5])
  redis.call('SREM', KEYS[6], ARGV[1])
end
if outstanding == 0 then
  redis.call('XADD', KEYS[1], '*', unpack(event, 1, 12))
  redis.call('PUBLISH', KEYS[1], '')
else
  redis.call('RPUSH', KEYS[4], event[2], event[4], event[6], event[8], event[10], event[12])
end
redis.call('HINCRBY', KEYS[3], 'fence', 1)
redis.call('HSET', KEYS[3], ARGV[3], outstanding + 1, 'entries', entries + 1, 'bytes', bytes + size)
return {'OK'}
