--[[
Moves a delivery to the dead letters; the next event of its lane becomes ready.

KEYS  1 stream of the queue   2 engines (hash)   3 busy (hash)   4 wait (list of the lane)   5 dead (stream)
      6 queues with dead letters (set)
ARGV  1 engine   2 queue   3 entry id   4 lane   5 bytes of the event   6 attempts   7 error   8 function
      9 most dead letters of the queue: the oldest go

Reply, an array that begins with a word:
  OK buried trimmed     1, or 0 where the delivery was not pending any more; how many of the oldest have gone
  FENCED                the engine is not among the engines: nothing changed
]]

if redis.call('HEXISTS', KEYS[2], ARGV[1]) == 0 then
  return {'FENCED'}
end
local id, lane, size, wait = ARGV[3], ARGV[4], tonumber(ARGV[5]), KEYS[4]
local held = redis.call('HMGET', KEYS[3], 'entries', 'bytes', lane)
local entries, bytes, outstanding = tonumber(held[1] or 0), tonumber(held[2] or 0), tonumber(held[3] or 0)
local entry = redis.call('XRANGE', KEYS[1], id, id)[1]
redis.call('LLEN', wait)
redis.call('XLEN', KEYS[5])
redis.call('SCARD', KEYS[6])

--- @include "queues/next_waiting"
local ended, ready, trimmed = 0, 0, 0
--- @include "queues/finish"
if ended == 1 then
  local event = entry[2]
  redis.call('XADD', KEYS[5], '*', 'w', event[2], 's', event[4], 'k', event[6], 't', event[8], 'o', event[10], 'n', event[12],
    'a', ARGV[6], 'e', ARGV[7], 'f', ARGV[8])
  redis.call('SADD', KEYS[6], ARGV[2])
  trimmed = redis.call('XTRIM', KEYS[5], 'MAXLEN', ARGV[9])
end
--- @include "queues/counts"
if ready > 0 then
  redis.call('PUBLISH', KEYS[1], '')
end
return {'OK', ended, trimmed}
