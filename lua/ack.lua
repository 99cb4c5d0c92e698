--[[
Ends deliveries of one queue whose handlers have returned; the next event of each lane becomes ready. Takes more.

KEYS  1 stream of the queue   2 engines (hash)   3 busy (hash)   then of each delivery: wait (list of its lane)
ARGV  1 engine   2 most deliveries to take   then of each delivery: entry id, lane, bytes of the event

Reply, an array that begins with a word:
  OK ended entries     how many were pending still, and what was taken, as in take.lua
  FENCED               the engine is not among the engines: nothing was ended, nothing taken
]]

if redis.call('HEXISTS', KEYS[2], ARGV[1]) == 0 then
  return {'FENCED'}
end

-- Reads first: what is outstanding in each lane, and that every key is what it should be.
local deliveries = #KEYS - 3
local fields = {'entries', 'bytes'}
for number = 1, deliveries do
  fields[number + 2] = ARGV[3 * number + 1]
end
local held = redis.call('HMGET', KEYS[3], unpack(fields))
for number = 1, deliveries do
  if tonumber(held[number + 2] or 0) > 1 then
    redis.call('LLEN', KEYS[3 + number])
  end
end

local entries, bytes, ended, ready = tonumber(held[1] or 0), tonumber(held[2] or 0), 0, 0
for number = 1, deliveries do
  local id, lane, size = ARGV[3 * number], ARGV[3 * number + 1], tonumber(ARGV[3 * number + 2])
  if redis.call('XACK', KEYS[1], 'engines', id) == 1 then
    redis.call('XDEL', KEYS[1], id)
    ended, entries, bytes = ended + 1, entries - 1, bytes - size
    local outstanding = tonumber(held[number + 2] or 0) - 1
    local event = outstanding > 0 and redis.call('LPOP', KEYS[3 + number], 6)
    if event and event[6] then
      redis.call('XADD', KEYS[1], '*', 'w', event[1], 's', event[2], 'k', event[3], 't', event[4], 'o', event[5], 'n', event[6])
      redis.call('HSET', KEYS[3], lane, outstanding)
      ready = ready + 1
    else
      redis.call('HDEL', KEYS[3], lane)
    end
  end
end
if entries > 0 then
  redis.call('HSET', KEYS[3], 'entries', entries, 'bytes', bytes)
elseif ended > 0 then
  redis.call('HDEL', KEYS[3], 'entries', 'bytes')
end

local want = tonumber(ARGV[2])
--- @include "take"
if ready > 0 and #taken == want then
  redis.call('PUBLISH', KEYS[1], '')
end
return {'OK', ended, taken}
