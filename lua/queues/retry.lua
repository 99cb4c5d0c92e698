--[[
Plans the next attempt of a delivery. Its entry stays in the stream, pending nowhere, until queues/redeliver.lua makes it ready; its lane
waits.

KEYS  1 stream of the queue   2 engines (hash)   3 later (sorted set of planned attempts of all queues)   4 clock (hash)
ARGV  1 engine   2 queue   3 entry id   4 delay in milliseconds   5 '1' where its worker went away in mid-call

Reply, an array that begins with a word:
  OK planned     1, or 0 where the delivery was not pending any more
  FENCED         the engine is not among the engines: nothing changed
]]

if redis.call('HEXISTS', KEYS[2], ARGV[1]) == 0 then
  return {'FENCED'}
end
local clock = KEYS[4]
--- @include "fleet/now"
redis.call('ZSCORE', KEYS[3], '')
local planned = redis.call('XACK', KEYS[1], 'engines', ARGV[3])
if planned == 1 then
  local due = math.floor(now + ARGV[4])
  if ARGV[5] == '1' then
    due = due + 0.5 -- the half tells queues/redeliver.lua that it was a crash
  end
  redis.call('ZADD', KEYS[3], due, ARGV[2] .. ':' .. ARGV[3])
end
return {'OK', planned}
