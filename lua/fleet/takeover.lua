--[[
Makes what is pending at a fenced engine in one queue ready again, for whoever takes it; in the end the engine hosts the queue no
more. The queue's fence grows, so that handlers can tell what the dead engine may still send.

KEYS  1 stream of the queue   2 engines (hash)   3 busy (hash)   4 subscription (hash)   5 orphans (sorted set)
      6 queues of the engine (set)   7 clock (hash)
ARGV  1 engine   2 queue   3 most entries

Reply, an array that begins with a word:
  OK entries done     how many were made ready; 1 where that was all, else 0: call again
  ALIVE               the engine is not fenced: nothing changed
]]

if redis.call('HEXISTS', KEYS[2], ARGV[1]) == 1 then
  return {'ALIVE'}
end
local released, done = 0, 1
redis.call('ZCARD', KEYS[5])
local engine, queue, subscription, orphans = ARGV[1], ARGV[2], KEYS[4], KEYS[5]
local pending = redis.pcall('XPENDING', KEYS[1], 'engines', '-', '+', ARGV[3], ARGV[1]) -- an error where there is no such queue
if not pending.err then
  for _, entry in ipairs(pending) do
    local id = entry[1]
    --- @include "queues/requeue"
  end
  if released > 0 then
    redis.call('HINCRBY', KEYS[3], 'fence', 1)
    redis.call('PUBLISH', KEYS[1], '')
  end
  if #pending >= tonumber(ARGV[3]) then
    return {'OK', released, 0}
  end
  redis.call('XGROUP', 'DELCONSUMER', KEYS[1], 'engines', ARGV[1])
end
local clock = KEYS[7]
--- @include "subscriptions/leave"
redis.call('SREM', KEYS[6], ARGV[2])
return {'OK', released, 1}
