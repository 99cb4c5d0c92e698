--[[
Says when a scope that was claimed has to be looked at again. One that has had no deadlines for a while loses its place among the
routes, so that its mutations do not look for any.

KEYS  1 earliest deadline of each scope (sorted set)   2 deadlines of the scope (sorted set)
      3 routes (hash)   4 routes version   5 routes log (stream)   6 hold   7 clock (hash)   8 values of the scope (hash)
ARGV  1 scope   2 name of its fact among the routes   3 milliseconds before which not to look again, 0 where all that was due went
      4 '1' where it had no deadlines when it was looked at last   5 milliseconds to wait where it has none   6 the same where it
      has no values either

Reply: 1 where the routes have changed, else 0
]]

local clock = KEYS[7]
--- @include "fleet/now"
local earliest = redis.call('ZRANGE', KEYS[2], 0, 0, 'WITHSCORES')[2]
if earliest then
  redis.call('ZADD', KEYS[1], math.max(tonumber(earliest), ARGV[3] ~= '0' and now + ARGV[3] or 0), ARGV[1])
  return 0
end
if ARGV[4] ~= '1' or redis.call('EXISTS', KEYS[6]) == 1 then
  redis.call('ZADD', KEYS[1], now + ARGV[redis.call('EXISTS', KEYS[8]) == 1 and 5 or 6] + 0.5, ARGV[1]) -- the half tells the next one that there were none
  return 0
end
redis.call('XLEN', KEYS[5])
redis.call('GET', KEYS[4])
redis.call('ZREM', KEYS[1], ARGV[1])
if redis.call('HDEL', KEYS[3], ARGV[2]) == 1 then
  local version_key, log_key, changes = KEYS[4], KEYS[5], {ARGV[2], ''}
  --- @include "fleet/change_routes"
  redis.call('PUBLISH', KEYS[3], '')
end
return 1
