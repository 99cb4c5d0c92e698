--[[
Gives back deliveries that are pending at an engine, as if they had never been taken, in the order given. Where handlers may still
be running, the queue's fence grows, so that they can tell.

KEYS  1 stream of the queue   2 engines (hash)   3 busy (hash)
ARGV  1 engine   2 whether handlers may be running, 1 or 0   then the entry ids

Reply, an array that begins with a word:
  OK released    how many were pending still
  FENCED         the engine is not among the engines: nothing changed
]]

if redis.call('HEXISTS', KEYS[2], ARGV[1]) == 0 then
  return {'FENCED'}
end
local released = 0
for number = 3, #ARGV do
  local id = ARGV[number]
  --- @include "queues/requeue"
end
if released > 0 then
  if ARGV[2] == '1' then
    redis.call('HINCRBY', KEYS[3], 'fence', 1)
  end
  redis.call('PUBLISH', KEYS[1], '')
end
return {'OK', released}
