--[[
Moves a delivery to the dead letters; the next event of its lane becomes ready.

KEYS  1 stream (stream)   2 engines (hash)   3 busy (hash)   4 wait (list of the lane)   5 dead (stream)   6 dead_queues (set)
      7 subscription (hash)   8 clock (hash)   9 clock_copy (string)   10 lineages (hash)
ARGV  1 engine   2 queue   3 id: of the entry   4 lane   5 size: bytes of the event   6 attempts   7 error   8 function_id
      9 most: dead letters of the queue; the oldest go

Reply, an array that begins with a word:
  OK ended trimmed      1, or 0 where the delivery was not pending any more; how many of the oldest dead letters have gone
  FENCED                the engine is not among the engines: nothing changed
]]

local stream, engines, busy, wait, dead, dead_queues = KEYS[1], KEYS[2], KEYS[3], KEYS[4], KEYS[5], KEYS[6]
local subscription, clock, clock_copy, lineages = KEYS[7], KEYS[8], KEYS[9], KEYS[10]
local engine, queue, id, lane, size = ARGV[1], ARGV[2], ARGV[3], ARGV[4], tonumber(ARGV[5])
local attempts, error, function_id, most = ARGV[6], ARGV[7], ARGV[8], ARGV[9]

--- @include "fleet/time"
if redis.call('HEXISTS', engines, engine) == 0 then
  return {'FENCED'}
end
local held = redis.call('HMGET', busy, 'entries', 'bytes', lane)
local entries, bytes, outstanding = tonumber(held[1] or 0), tonumber(held[2] or 0), tonumber(held[3] or 0)
local entry = redis.call('XRANGE', stream, id, id)[1]
redis.call('LLEN', wait)
redis.call('XLEN', dead)
redis.call('SCARD', dead_queues)

local ended, ready, trimmed = 0, 0, 0
--- @include "queues/end_delivery"
if ended == 1 then
  local event = entry[2]
  redis.call('XADD', dead, '*', 'w', event[2], 's', event[4], 'k', event[6], 't', event[8], 'o', event[10], 'n', event[12],
    'a', attempts, 'e', error, 'f', function_id,
    'b', string.format('%d', (fleet_time(clock, clock_copy))))
  redis.call('SADD', dead_queues, queue)
  trimmed = redis.call('XTRIM', dead, 'MAXLEN', most)
  if trimmed > 0 and redis.call('HEXISTS', subscription, 'settings') == 1 then
    redis.call('HINCRBY', subscription, 'dropped', trimmed)
  end
end
--- @include "queues/store_counts"
if ready > 0 then
  redis.call('PUBLISH', stream, '')
end
return {'OK', ended, trimmed}
