--[[
Ends a subscription for good, unless an engine hosts it: no event is queued for it from now on. What its queue still holds is
removed by subscriptions/delete_queue.lua.

KEYS  1 routes (hash)   2 routes version   3 routes log (stream)   4 hold   5 orphans (sorted set)   6 subscription (hash)
      7 clock (hash)
ARGV  1 engine that lets it go, '' for one whose retention may be over   2 queue

Reply: a word
  ENDED     the routes have changed, or had been; its queue is to be cleared
  KEPT      another engine hosts it, or its retention is not over
  GONE      there is no such subscription
  HOLD      the routes have to hold still for a moment: nothing changed
]]

if redis.call('EXISTS', KEYS[4]) == 1 then
  return 'HOLD'
end
local fields = redis.call('HKEYS', KEYS[6])
if not fields[1] then
  redis.call('ZREM', KEYS[5], ARGV[2])
  return 'GONE'
end
local clock = KEYS[7]
--- @include "fleet/now"
local own, ending, hosted = 'at:' .. ARGV[1], false, false
for _, field in ipairs(fields) do
  ending = ending or field == 'ending'
  hosted = hosted or string.sub(field, 1, 3) == 'at:' and field ~= own
end
if ending then
  return 'ENDED'
end
local ends = redis.call('ZSCORE', KEYS[5], ARGV[2])
if hosted then
  redis.call('HDEL', KEYS[6], own)
  return 'KEPT'
elseif ARGV[1] == '' and (not ends or tonumber(ends) > now) then
  return 'KEPT'
end
redis.call('XLEN', KEYS[3])
redis.call('GET', KEYS[2])

if redis.call('HDEL', KEYS[1], ARGV[2]) == 1 then
  local version_key, log_key, changes = KEYS[2], KEYS[3], {ARGV[2], ''}
  --- @include "fleet/change_routes"
end
redis.call('HDEL', KEYS[6], own)
redis.call('HSET', KEYS[6], 'ending', '1')
redis.call('ZADD', KEYS[5], 0, ARGV[2])
return 'ENDED'
