--[[
Gives an engine the scopes in which a deadline may be over. For a moment no other engine gets them; if this one dies, they do.

KEYS  1 earliest deadline of each scope (sorted set)   2 clock (hash)
ARGV  1 most scopes   2 milliseconds

Reply: an array of the scopes and what stood there in turn, and the milliseconds until the next one is due (-1 if there is none)
]]

local clock = KEYS[2]
--- @include "fleet/now"
local due = redis.call('ZRANGEBYSCORE', KEYS[1], '-inf', now, 'WITHSCORES', 'LIMIT', 0, ARGV[1])
for at = 1, #due, 2 do
  redis.call('ZADD', KEYS[1], now + ARGV[2], due[at])
end
local following = redis.call('ZRANGEBYSCORE', KEYS[1], '(' .. now, '+inf', 'WITHSCORES', 'LIMIT', 0, 1)
return {due, following[2] and math.max(1, math.ceil(following[2] - now)) or -1}
