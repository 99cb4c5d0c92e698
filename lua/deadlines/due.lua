--[[
What is due in a sorted set of times, by the time of the fleet.

KEYS  1 times (sorted set: of milliseconds since 1970)   2 clock (hash)   3 clock_copy (string)
ARGV  1 most: members   2 skipped: how many of the first to leave out (optional)

Reply: an array of the members that are due, and the milliseconds until the next one is (-1 if there is none)
]]

local times, clock, clock_copy = KEYS[1], KEYS[2], KEYS[3]
local most, skipped = ARGV[1], ARGV[2]

--- @include "fleet/time"
local now = fleet_time(clock, clock_copy)
local due = redis.call('ZRANGEBYSCORE', times, '-inf', now, 'LIMIT', skipped or 0, most)
local following = redis.call('ZRANGEBYSCORE', times, '(' .. now, '+inf', 'WITHSCORES', 'LIMIT', 0, 1)
return {due, following[2] and math.max(1, following[2] - now) or -1}
