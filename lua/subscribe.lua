--[[
Hosts subscriptions at an engine: makes their queues, or takes over those that wait, and routes events to them. Once this has
answered, no later mutation of any engine misses them. What is registered together is one change of the routes.

KEYS  1 routes (hash)   2 routes version   3 routes log (stream)   4 engines (hash)
      then of each subscription: its hash, the stream of its queue
ARGV  1 engine   then of each subscription: queue, route, settings

Reply, an array that begins with a word:
  OK version     the version of the routes now
  FENCED         the engine is not among the engines: nothing changed

In the routes, a queue's field is its route, a text that only engines read. An entry of the log has the id `<version>-0` and a
field per queue that changed: its route, or '' for a route that is gone. A subscription's hash has its `settings`, and a
field `at:<engine>` for each engine that hosts it.
]]

if redis.call('HEXISTS', KEYS[4], ARGV[1]) == 0 then
  return {'FENCED'}
end

-- Reads first: what changes, and that every key is what it should be.
local subscriptions = (#KEYS - 4) / 2
local version = tonumber(redis.call('GET', KEYS[2]) or 0)
redis.call('XLEN', KEYS[3])
local changes = {}
for number = 1, subscriptions do
  redis.call('HLEN', KEYS[3 + 2 * number])
  redis.call('XLEN', KEYS[4 + 2 * number])
  local queue, route = ARGV[3 * number - 1], ARGV[3 * number]
  if redis.call('HGET', KEYS[1], queue) ~= route then
    changes[#changes + 1] = queue
    changes[#changes + 1] = route
  end
end

for number = 1, subscriptions do
  local made = redis.pcall('XGROUP', 'CREATE', KEYS[4 + 2 * number], 'engines', '0', 'MKSTREAM')
  if made.err and not string.find(tostring(made.err), 'BUSYGROUP', 1, true) then
    return made
  end
  redis.call('HSET', KEYS[3 + 2 * number], 'settings', ARGV[3 * number + 1], 'at:' .. ARGV[1], '1')
end
if changes[1] then
  version = redis.call('INCR', KEYS[2])
  local id = string.format('%d-0', version)
  redis.call('XADD', KEYS[3], 'MAXLEN', 1000, id, unpack(changes))
  redis.call('HSET', KEYS[1], unpack(changes))
end
return {'OK', version}
