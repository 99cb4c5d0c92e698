--[[
Ends the hosting of a subscription at an engine. Where no engine hosts it any more, its retention begins.

KEYS  1 subscription (hash)   2 orphans (sorted set)   3 clock (hash)   4 clock_copy (string)
ARGV  1 engine   2 queue

Reply: 1 where no engine hosts it any more, else 0
]]

local subscription, orphans, clock, clock_copy = KEYS[1], KEYS[2], KEYS[3], KEYS[4]
local engine, queue = ARGV[1], ARGV[2]

--- @include "subscriptions/stop_hosting"
redis.call('ZCARD', orphans)
return stop_hosting(engine, queue, subscription, orphans, clock, clock_copy)
