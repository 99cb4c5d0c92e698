--[[
Ends the hosting of a subscription at an engine. Where nobody hosts it any more, its retention begins.

KEYS  1 subscription (hash)   2 orphans (sorted set: queue -> when it ends)   3 clock (hash)
ARGV  1 engine   2 queue

Reply: 1 where nobody hosts it any more, else 0
]]

redis.call('ZCARD', KEYS[2])
local engine, queue, subscription, orphans = ARGV[1], ARGV[2], KEYS[1], KEYS[2]
local clock = KEYS[3]
--- @include "subscriptions/leave"
return orphaned
