--[[
Says when a scope that was claimed has to be looked at again. One that has had no deadlines for a while loses its place among the
routes, so that its mutations do not look for any.

KEYS  1 deadlines (sorted set)   2 scope_deadlines (sorted set)   3 routes (hash)   4 routes_version (string)
      5 routes_log (stream)   6 hold (string)   7 clock (hash)   8 clock_copy (string)   9 values (hash)
ARGV  1 scope   2 fact: its name among the routes   3 retry_ms: before that not to look again, 0 where all that was due went
      4 was_empty: '1' where it had no deadlines when it was looked at last   5 idle_ms: to wait where it has none
      6 gone_ms: the same where it has no values either

Reply: 1 where the routes have changed, else 0
]]

local deadlines, scope_deadlines, routes, routes_version, routes_log = KEYS[1], KEYS[2], KEYS[3], KEYS[4], KEYS[5]
local hold, clock, clock_copy, values = KEYS[6], KEYS[7], KEYS[8], KEYS[9]
local scope, fact, retry_ms, was_empty, idle_ms, gone_ms = ARGV[1], ARGV[2], ARGV[3], ARGV[4], ARGV[5], ARGV[6]

--- @include "fleet/time"
local now = fleet_time(clock, clock_copy)
local earliest = redis.call('ZRANGE', scope_deadlines, 0, 0, 'WITHSCORES')[2]
if earliest then
  redis.call('ZADD', deadlines, math.max(tonumber(earliest), retry_ms ~= '0' and now + retry_ms or 0), scope)
  return 0
end
if was_empty ~= '1' or redis.call('EXISTS', hold) == 1 then
  local wait_ms = redis.call('EXISTS', values) == 1 and idle_ms or gone_ms
  redis.call('ZADD', deadlines, now + wait_ms + 0.5, scope) -- the half tells the next one that there were none
  return 0
end
redis.call('XLEN', routes_log)
redis.call('GET', routes_version)
redis.call('ZREM', deadlines, scope)
if redis.call('HEXISTS', routes, fact) == 1 then
  --- @include "fleet/change_routes"
  change_routes(routes, routes_version, routes_log, {fact, ''})
  redis.call('PUBLISH', routes, '')
end
return 1
