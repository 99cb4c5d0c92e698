--[[
Plans the next attempt of a delivery. Its entry stays in the stream, pending nowhere, until queues/redeliver.lua makes it ready; its
lane waits.

KEYS  1 stream (stream)   2 engines (hash)   3 later (sorted set)   4 clock (hash)   5 clock_copy (string)
ARGV  1 engine   2 queue   3 id: of the entry   4 delay_ms   5 crashed: '1' where its worker went away in mid-call

Reply, an array that begins with a word:
  OK planned     1, or 0 where the delivery was not pending any more
  FENCED         the engine is not among the engines: nothing changed
]]

local stream, engines, later, clock, clock_copy = KEYS[1], KEYS[2], KEYS[3], KEYS[4], KEYS[5]
local engine, queue, id, delay_ms, crashed = ARGV[1], ARGV[2], ARGV[3], ARGV[4], ARGV[5]

if redis.call('HEXISTS', engines, engine) == 0 then
  return {'FENCED'}
end
--- @include "fleet/time"
local now = fleet_time(clock, clock_copy)
redis.call('ZSCORE', later, '')
local planned = redis.call('XACK', stream, 'engines', id)
if planned == 1 then
  local due = math.floor(now + delay_ms)
  if crashed == '1' then
    due = due + 0.5 -- the half tells queues/redeliver.lua that it was a crash
  end
  redis.call('ZADD', later, due, queue .. ':' .. id)
end
return {'OK', planned}
