--[[
Notes that the handler of a subscription has been seen to lead to itself: when, in seconds by Redis's clock.

KEYS  1 subscription (hash)
ARGV  nothing

Reply: 1, or 0 where there is no such subscription
]]

local subscription = KEYS[1]

if redis.call('HEXISTS', subscription, 'settings') == 0 then
  return 0
end
redis.call('HSET', subscription, 'looped', redis.call('TIME')[1])
return 1
