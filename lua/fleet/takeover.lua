--[[
Makes what is pending at a fenced engine in one queue ready again, for any engine to take; in the end the engine hosts the queue no
more. The queue's fence grows, so that handlers can tell what the dead engine may still send.

KEYS  1 stream (stream)   2 engines (hash)   3 busy (hash)   4 subscription (hash)   5 orphans (sorted set)   6 hosts (set)
      7 clock (hash)   8 clock_copy (string)
ARGV  1 engine   2 queue   3 most: entries

Reply, an array that begins with a word:
  OK entries done     how many were made ready; 1 where that was all, else 0: call again
  ALIVE               the engine is not fenced: nothing changed
]]

local stream, engines, busy, subscription, orphans, hosts = KEYS[1], KEYS[2], KEYS[3], KEYS[4], KEYS[5], KEYS[6]
local clock, clock_copy = KEYS[7], KEYS[8]
local engine, queue, most = ARGV[1], ARGV[2], tonumber(ARGV[3])

if redis.call('HEXISTS', engines, engine) == 1 then
  return {'ALIVE'}
end
redis.call('ZCARD', orphans)
--- @include "queues/requeue"
local released = 0
local pending = redis.pcall('XPENDING', stream, 'engines', '-', '+', most, engine) -- an error where there is no such queue
if not pending.err then
  for _, entry in ipairs(pending) do
    released = released + requeue(stream, entry[1])
  end
  if released > 0 then
    redis.call('HINCRBY', busy, 'fence', 1)
    redis.call('PUBLISH', stream, '')
  end
  if #pending >= most then
    return {'OK', released, 0}
  end
  redis.call('XGROUP', 'DELCONSUMER', stream, 'engines', engine)
end
--- @include "subscriptions/stop_hosting"
stop_hosting(engine, queue, subscription, orphans, clock, clock_copy)
redis.call('SREM', hosts, queue)
return {'OK', released, 1}
