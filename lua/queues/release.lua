--[[
Gives back deliveries that are pending at an engine, as if they had never been taken, in the order given. Where handlers may still
be running, the queue's fence grows, so that they can tell.

KEYS  1 stream (stream)   2 engines (hash)   3 busy (hash)
ARGV  1 engine   2 begun: '1' where handlers may be running, else '0'   then the entry ids

Reply, an array that begins with a word:
  OK released    how many were pending still
  FENCED         the engine is not among the engines: nothing changed
]]

local stream, engines, busy = KEYS[1], KEYS[2], KEYS[3]
local engine, begun = ARGV[1], ARGV[2]

if redis.call('HEXISTS', engines, engine) == 0 then
  return {'FENCED'}
end
--- @include "queues/requeue"
local released = 0
for number = 3, #ARGV do
  released = released + requeue(stream, ARGV[number])
end
if released > 0 then
  if begun == '1' then
    redis.call('HINCRBY', busy, 'fence', 1)
  end
  redis.call('PUBLISH', stream, '')
end
return {'OK', released}
