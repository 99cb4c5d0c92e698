--[[
Tells of which scopes all values are over: they are there still, but are not seen any more.

KEYS  of each scope: values (hash), deadlines of its keys (sorted set); then clock (hash)
ARGV  each scope, in the same order

Reply: those scopes
]]

local clock = KEYS[#KEYS]
--- @include "fleet/now"
local over = {}
for number = 1, #ARGV do
  local values, deadlines = KEYS[2 * number - 1], KEYS[2 * number]
  local count = redis.call('HLEN', values)
  if redis.call('ZCOUNT', deadlines, '-inf', now) >= count then
    -- Another program may have removed values that had a deadline; beyond so many nobody has.
    local looked_at, found = 0, 0
    for _, key in ipairs(redis.call('ZRANGEBYSCORE', deadlines, '-inf', now, 'LIMIT', 0, 5000)) do
      looked_at, found = looked_at + 1, found + redis.call('HEXISTS', values, key)
    end
    if found == count or looked_at == 5000 and found == looked_at then
      over[#over + 1] = ARGV[number]
    end
  end
end
return over
