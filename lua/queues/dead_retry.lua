--[[
Delivers a dead letter again, as a first attempt behind what waits in its lane. The queue's fence grows, so that nobody takes it
for the first attempt that there was before.

KEYS  1 stream (stream)   2 subscription (hash)   3 busy (hash)   4 wait (list of the lane)   5 dead (stream)   6 dead_queues (set)
ARGV  1 queue   2 id: of the dead letter   3 lane   4 most_entries   5 most_bytes

Reply, an array that begins with a word:
  OK             it is in its queue
  NONE           there is no such dead letter
  GONE           there is no such queue: nothing changed
  FULL bound     the queue has no room: nothing changed
]]

local stream, subscription, busy, wait, dead, dead_queues = KEYS[1], KEYS[2], KEYS[3], KEYS[4], KEYS[5], KEYS[6]
local queue, id, lane, most_entries, most_bytes = ARGV[1], ARGV[2], ARGV[3], tonumber(ARGV[4]), tonumber(ARGV[5])

local dead_letter = redis.call('XRANGE', dead, id, id)[1]
if not dead_letter then
  return {'NONE'}
end
if redis.call('HEXISTS', subscription, 'settings') == 0 or redis.call('HEXISTS', subscription, 'ending') == 1 then
  return {'GONE'}
end
local event = dead_letter[2]
local held = redis.call('HMGET', busy, lane, 'entries', 'bytes', 'doubt')
local outstanding, entries, bytes = tonumber(held[1] or 0), tonumber(held[2] or 0), tonumber(held[3] or 0)
local doubt = held[4] or not held[2] and (redis.call('XLEN', stream) > 0 or redis.call('EXISTS', stream) == 0)
if outstanding == 0 and doubt then -- see lib/queues/check_room.lua
  outstanding = 1 + math.floor(redis.call('LLEN', wait) / 6)
  entries = entries + outstanding
end
local size = #event[4] + #event[6] + #event[10] + #event[12]
if entries >= most_entries then
  return {'FULL', 'max_queue_length'}
elseif bytes + size > most_bytes then
  return {'FULL', 'max_queue_bytes'}
end
redis.call('XLEN', stream)
redis.call('LLEN', wait)

redis.call('XDEL', dead, id)
if redis.call('XLEN', dead) == 0 then
  redis.call('DEL', dead)
  redis.call('SREM', dead_queues, queue)
end
if outstanding == 0 then
  redis.call('XADD', stream, '*', unpack(event, 1, 12))
  redis.call('PUBLISH', stream, '')
else
  redis.call('RPUSH', wait, event[2], event[4], event[6], event[8], event[10], event[12])
end
redis.call('HINCRBY', busy, 'fence', 1)
redis.call('HSET', busy, lane, outstanding + 1, 'entries', entries + 1, 'bytes', bytes + size)
return {'OK'}
