--[[
Ends a subscription for good, unless an engine hosts it: no event is queued for it from now on. What its queue still holds is
removed by subscriptions/delete_queue.lua.

KEYS  1 routes (hash)   2 routes_version (string)   3 routes_log (stream)   4 hold (string)   5 orphans (sorted set)
      6 subscription (hash)   7 clock (hash)   8 clock_copy (string)
ARGV  1 engine: which lets it go, '' for a subscription whose retention may be over   2 queue
      3 early: '1' where it is to end before its retention is over, '2' also where that is for ever, if no engine hosts it

Reply: a word
  ENDED     the routes have changed, or had been; its queue is to be cleared
  KEPT      another engine hosts it, or its retention is not over and has to be
  GONE      there is no such subscription
  HOLD      the routes have to hold still for a moment: nothing changed
]]

local routes, routes_version, routes_log, hold, orphans, subscription = KEYS[1], KEYS[2], KEYS[3], KEYS[4], KEYS[5], KEYS[6]
local clock, clock_copy = KEYS[7], KEYS[8]
local engine, queue, early = ARGV[1], ARGV[2], ARGV[3]

if redis.call('EXISTS', hold) == 1 then
  return 'HOLD'
end
local fields = redis.call('HKEYS', subscription)
if not fields[1] then
  redis.call('ZREM', orphans, queue)
  return 'GONE'
end
--- @include "fleet/time"
local now = fleet_time(clock, clock_copy)
local own, is_ending, is_hosted = 'at:' .. engine, false, false
for _, field in ipairs(fields) do
  is_ending = is_ending or field == 'ending'
  is_hosted = is_hosted or string.sub(field, 1, 3) == 'at:' and field ~= own
end
if is_ending then
  return 'ENDED'
end
local retained_until = redis.call('ZSCORE', orphans, queue)
if is_hosted then
  redis.call('HDEL', subscription, own)
  return 'KEPT'
elseif engine == '' and early ~= '2' and (not retained_until or early ~= '1' and tonumber(retained_until) > now) then
  return 'KEPT'
end
redis.call('XLEN', routes_log)
redis.call('GET', routes_version)

if redis.call('HEXISTS', routes, queue) == 1 then
  --- @include "fleet/change_routes"
  change_routes(routes, routes_version, routes_log, {queue, ''})
end
redis.call('HDEL', subscription, own)
redis.call('HSET', subscription, 'ending', '1')
redis.call('ZADD', orphans, 0, queue)
return 'ENDED'
