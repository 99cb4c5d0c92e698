--[[
Gives back deliveries that are pending at an engine, as if they had never been taken, in the order given.

KEYS  1 stream of the queue   2 engines (hash)
ARGV  1 engine   then the entry ids

Reply, an array that begins with a word:
  OK released    how many were pending still
  FENCED         the engine is not among the engines: nothing changed
]]

if redis.call('HEXISTS', KEYS[2], ARGV[1]) == 0 then
  return {'FENCED'}
end
local released = 0
for number = 2, #ARGV do
  local id = ARGV[number]
  --- @include "give_back"
end
if released > 0 then
  redis.call('PUBLISH', KEYS[1], '')
end
return {'OK', released}
