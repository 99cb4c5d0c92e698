--[[
Gives an engine the scopes in which a deadline may be over. For a moment no other engine gets them; if this one dies, they do.

KEYS  1 deadlines (sorted set)   2 clock (hash)   3 clock_copy (string)
ARGV  1 most: scopes   2 claim_ms: for so long the others do not get them

Reply: an array of the scopes and what stood there in turn, and the milliseconds until the next one is due (-1 if there is none)
]]

local deadlines, clock, clock_copy = KEYS[1], KEYS[2], KEYS[3]
local most, claim_ms = ARGV[1], ARGV[2]

--- @include "fleet/time"
local now = fleet_time(clock, clock_copy)
local due = redis.call('ZRANGEBYSCORE', deadlines, '-inf', now, 'WITHSCORES', 'LIMIT', 0, most)
for at = 1, #due, 2 do
  redis.call('ZADD', deadlines, now + claim_ms, due[at])
end
local following = redis.call('ZRANGEBYSCORE', deadlines, '(' .. now, '+inf', 'WITHSCORES', 'LIMIT', 0, 1)
return {due, following[2] and math.max(1, math.ceil(following[2] - now)) or -1}
