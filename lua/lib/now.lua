-- Step: gives `now`, the time of the fleet in milliseconds since 1970. Takes the key `clock`; gives `time` and `redis_now`, Redis's own
-- clock, too.
--
-- `clock` is a hash: `offset`, from Redis's clock to the time of the fleet; `last`, what Redis's clock was at the last heartbeat of
-- any engine; `until`, what it can be at most before the next one. Outside of these it has been set, or another server answers:
-- then the time stands still until the next heartbeat, which tells how long it has been by a clock that nobody sets.

local time = redis.call('TIME')
local redis_now = time[1] * 1000 + math.floor(time[2] / 1000)
local known = redis.call('HMGET', clock, 'offset', 'last', 'until')
local now = redis_now + (known[1] or 0)
if known[3] and (redis_now < known[2] - 1000 or redis_now > tonumber(known[3])) then
  now = known[2] + known[1]
end
