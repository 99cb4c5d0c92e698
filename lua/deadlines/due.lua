--[[
What is due in a sorted set of times, by the time of the fleet.

KEYS  1 times (sorted set: of milliseconds since 1970)   2 clock (hash)
ARGV  1 most: members   2 skipped: how many of the first to leave out (optional)

Reply: an array of the members that are due, and the milliseconds until the next one is (-1 if there is none)
]]

local times, clock = KEYS[1], KEYS[2]
local most, skipped = ARGV[1], ARGV[2]

--- @include "fleet/time"
local now = fleet_time(clock)
local due = redis.call('ZRANGEBYSCORE', times, '-inf', now, 'LIMIT', skipped or 0, most)
local following = redis.call('ZRANGEBYSCORE', times, '(' .. now, '+inf', 'WITHSCORES', 'LIMIT', 0, 1)
return {due, following[2] and math.max(1, following[2] - now) or -1}
