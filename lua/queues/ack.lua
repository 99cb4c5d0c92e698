--[[
Ends deliveries of one queue whose handlers have returned; the next event of each lane becomes ready. Takes more.

KEYS  1 stream (stream)   2 engines (hash)   3 busy (hash)   4 lineages (hash)   5 paused (hash)
      then of each delivery: wait (list of its lane)
ARGV  1 engine   2 most: deliveries to take   3 subscription: its id   then of each delivery: entry id, lane, bytes of the event

Reply, an array that begins with a word:
  OK ended entries fence     how many were pending still, and what was taken, as in queues/take.lua
  PAUSED ended entries fence    the same, where an operator has paused the subscription: no entries
  FENCED                     the engine is not among the engines: nothing was ended, nothing taken
]]

local stream, engines, busy, lineages, paused = KEYS[1], KEYS[2], KEYS[3], KEYS[4], KEYS[5]
local engine, most, subscription = ARGV[1], tonumber(ARGV[2]), ARGV[3]

if redis.call('HEXISTS', engines, engine) == 0 then
  return {'FENCED'}
end

-- Reads come first: what is outstanding in each lane, and that every key is what it should be.
local deliveries = #KEYS - 5
local fields = {'entries', 'bytes', 'fence'}
for number = 1, deliveries do
  fields[number + 3] = ARGV[3 * number + 2]
end
local held = redis.call('HMGET', busy, unpack(fields))
for number = 1, deliveries do
  if held[number + 3] ~= '1' then
    redis.call('LLEN', KEYS[5 + number])
  end
end

--- @include "queues/next_waiting"
local entries, bytes, ended, ready = tonumber(held[1] or 0), tonumber(held[2] or 0), 0, 0
for number = 1, deliveries do
  local id, lane, size, wait = ARGV[3 * number + 1], ARGV[3 * number + 2], tonumber(ARGV[3 * number + 3]), KEYS[5 + number]
  local outstanding = tonumber(held[number + 3] or 0)
  --- @include "queues/end_delivery"
end
--- @include "queues/store_counts"

if redis.pcall('HEXISTS', paused, subscription) == 1 then
  return {'PAUSED', ended, {}, tonumber(held[3] or 0)}
end
--- @include "queues/take_ready"
if ready > 0 and #taken == most then
  redis.call('PUBLISH', stream, '')
end
return {'OK', ended, taken, tonumber(held[3] or 0)}
