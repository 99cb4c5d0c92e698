--[[
Hosts subscriptions at an engine: makes their queues, or takes over those that wait, and routes events to them. Once this has
answered, no later mutation of any engine misses them. What is registered together is one change of the routes.

KEYS  1 routes (hash)   2 routes version   3 routes log (stream)   4 engines (hash)   5 hold   6 queues of the engine (set)
      7 orphans (sorted set)   then of each subscription: its hash, the stream of its queue
ARGV  1 engine   then of each subscription: queue, route, settings, retention in milliseconds ('' for ever)

Reply, an array that begins with a word:
  OK version before   the version of the routes now, and the one before this call (the same if no route changed)
  FENCED         the engine is not among the engines: nothing changed
  HOLD           the routes have to hold still for a moment: nothing changed
  ENDING queue   this queue is being removed: nothing changed; clear it, and call again

The versions begin with the time, in microseconds, so that a database that has been flushed has others than before.

In the routes, a queue's field is its route, a text that only engines read. An entry of the log has the id `<version>-0` and a
field per queue that changed: its route, or '' for a route that is gone. A subscription's hash has its `settings`,
its `retention` unless it is for ever, a field `at:<engine>` for each engine that hosts it, `dropped` where its full queue has
dropped events, and `ending` while it is being removed.
]]

if redis.call('HEXISTS', KEYS[4], ARGV[1]) == 0 then
  return {'FENCED'}
end
if redis.call('EXISTS', KEYS[5]) == 1 then
  return {'HOLD'}
end

-- Reads first: what changes, and that every key is what it should be.
local subscriptions = (#KEYS - 7) / 2
local before = tonumber(redis.call('GET', KEYS[2]) or 0)
redis.call('XLEN', KEYS[3])
redis.call('SCARD', KEYS[6])
redis.call('ZCARD', KEYS[7])
local changes = {}
for number = 1, subscriptions do
  if redis.call('HEXISTS', KEYS[6 + 2 * number], 'ending') == 1 then
    return {'ENDING', ARGV[4 * number - 2]}
  end
  redis.call('XLEN', KEYS[7 + 2 * number])
  local queue, route = ARGV[4 * number - 2], ARGV[4 * number - 1]
  if redis.call('HGET', KEYS[1], queue) ~= route then
    changes[#changes + 1] = queue
    changes[#changes + 1] = route
  end
end

for number = 1, subscriptions do
  local made = redis.pcall('XGROUP', 'CREATE', KEYS[7 + 2 * number], 'engines', '$', 'MKSTREAM')
  if made.err and not string.find(tostring(made.err), 'BUSYGROUP', 1, true) then
    return made
  end
  redis.call('HSET', KEYS[6 + 2 * number], 'settings', ARGV[4 * number], 'at:' .. ARGV[1], '1')
  if ARGV[4 * number + 1] ~= '' then
    redis.call('HSET', KEYS[6 + 2 * number], 'retention', ARGV[4 * number + 1])
  else
    redis.call('HDEL', KEYS[6 + 2 * number], 'retention')
  end
  redis.call('SADD', KEYS[6], ARGV[4 * number - 2])
  redis.call('ZREM', KEYS[7], ARGV[4 * number - 2])
end
if changes[1] then
  local version_key, log_key = KEYS[2], KEYS[3]
  --- @include "fleet/change_routes"
  redis.call('HSET', KEYS[1], unpack(changes))
  return {'OK', tonumber(version), before}
end
return {'OK', before, before}
