--[[
Hosts subscriptions at an engine: makes their queues, or takes over those that wait, and routes events to them. Once this has
answered, no later mutation of any engine misses them. What is registered together is one change of the routes.

KEYS  1 routes (hash)   2 routes_version (string)   3 routes_log (stream)   4 engines (hash)   5 hold (string)   6 hosts (set)
      7 orphans (sorted set)   then of each subscription: subscription (hash), stream (stream), busy (hash)
ARGV  1 engine   then of each subscription: queue, route, settings, retention in milliseconds ('' for ever)

Reply, an array that begins with a word:
  OK version before   the version of the routes now, and the one before this call (the same if no route changed)
  FENCED         the engine is not among the engines: nothing changed
  HOLD           the routes have to hold still for a moment: nothing changed
  ENDING queue   this queue is being removed: nothing changed; delete it, and call again

The versions begin with the time, in microseconds, so that a database that has been flushed has others than before.

In the routes, a queue's field is its route, a text that only engines read. An entry of the log has the id `<version>-0` and a
field per queue that changed: its route, or '' for a route that is gone. A subscription's hash has its `settings`,
its `retention` unless it is for ever, a field `at:<engine>` for each engine that hosts it, `dropped` where its full queue has
dropped events, `ending` while it is being removed, and `cut` where it is not known what was pending (repair/check_queues.lua).
]]

local routes, routes_version, routes_log, engines, hold, hosts = KEYS[1], KEYS[2], KEYS[3], KEYS[4], KEYS[5], KEYS[6]
local orphans = KEYS[7]
local engine = ARGV[1]

if redis.call('HEXISTS', engines, engine) == 0 then
  return {'FENCED'}
end
if redis.call('EXISTS', hold) == 1 then
  return {'HOLD'}
end

-- Reads first: what changes, and that every key is what it should be.
local subscriptions = (#KEYS - 7) / 3
local before = tonumber(redis.call('GET', routes_version) or 0)
redis.call('XLEN', routes_log)
redis.call('SCARD', hosts)
redis.call('ZCARD', orphans)
local changes = {}
for number = 1, subscriptions do
  local subscription, stream = KEYS[5 + 3 * number], KEYS[6 + 3 * number]
  local queue, route = ARGV[4 * number - 2], ARGV[4 * number - 1]
  if redis.call('HEXISTS', subscription, 'ending') == 1 then
    return {'ENDING', queue}
  end
  redis.call('XLEN', stream)
  if redis.call('HGET', routes, queue) ~= route then
    changes[#changes + 1] = queue
    changes[#changes + 1] = route
  end
end

for number = 1, subscriptions do
  local subscription, stream, busy = KEYS[5 + 3 * number], KEYS[6 + 3 * number], KEYS[7 + 3 * number]
  local queue, settings, retention = ARGV[4 * number - 2], ARGV[4 * number], ARGV[4 * number + 1]
  local made = redis.pcall('XGROUP', 'CREATE', stream, 'engines', '$', 'MKSTREAM')
  if made.err and not string.find(tostring(made.err), 'BUSYGROUP', 1, true) then
    return made
  elseif not made.err and redis.call('HEXISTS', subscription, 'settings') == 1 then -- somebody has removed it
    redis.call('HSET', subscription, 'cut', '')
    if redis.pcall('HEXISTS', busy, 'entries') == 0 then
      redis.call('HSET', busy, 'doubt', '1') -- there may be events that wait, see lib/queues/check_room.lua
    end
  end
  redis.call('HSET', subscription, 'settings', settings, 'at:' .. engine, '1')
  if retention ~= '' then
    redis.call('HSET', subscription, 'retention', retention)
  else
    redis.call('HDEL', subscription, 'retention')
  end
  redis.call('SADD', hosts, queue)
  redis.call('ZREM', orphans, queue)
end
if changes[1] then
  --- @include "fleet/change_routes"
  return {'OK', tonumber(change_routes(routes, routes_version, routes_log, changes)), before}
end
return {'OK', before, before}
