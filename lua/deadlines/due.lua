--[[
What is due in a sorted set of times, by the time of the fleet.

KEYS  1 sorted set: the scores are milliseconds since 1970   2 clock (hash)
ARGV  1 most members   2 how many of the first to leave out (optional)

Reply: an array of the members that are due, and the milliseconds until the next one is (-1 if there is none)
]]

local clock = KEYS[2]
--- @include "fleet/now"
local due = redis.call('ZRANGEBYSCORE', KEYS[1], '-inf', now, 'LIMIT', ARGV[2] or 0, ARGV[1])
local following = redis.call('ZRANGEBYSCORE', KEYS[1], '(' .. now, '+inf', 'WITHSCORES', 'LIMIT', 0, 1)
return {due, following[2] and math.max(1, following[2] - now) or -1}
