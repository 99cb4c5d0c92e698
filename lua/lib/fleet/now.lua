-- Step: gives `now`, the time of the fleet in milliseconds since 1970. Takes the key `clock`; gives `time` and `redis_now`, Redis's own
-- clock, too; `stands` where the time is not known just now, `clock_offset` and `clock_last` where something is known of it.
--
-- `clock` is a hash: `offset`, from Redis's clock to the time of the fleet; `last`, what Redis's clock was at the last heartbeat of
-- any engine; `until`, what it can be at most before the next one. Outside of these it has been set, or another server answers:
-- then the time stands still until the next heartbeat, which tells how long it has been by a clock that nobody sets. The key with
-- `:copy` behind its name has the three as one text, for when somebody removes the hash or writes something else into it.

local time = redis.call('TIME')
local redis_now = time[1] * 1000 + math.floor(time[2] / 1000)
local now, stands, clock_offset, clock_last = redis_now, true, nil, nil
do
  local known = redis.call('HMGET', clock, 'offset', 'last', 'until')
  local text = (known[1] or '') .. ' ' .. (known[2] or '') .. ' ' .. (known[3] or '')
  local offset, last, latest = string.match(text, '^(%-?%d+) (%d+) (%d+)$')
  if not offset then
    local copy = redis.pcall('GET', clock .. ':copy')
    offset, last, latest = string.match(type(copy) == 'string' and copy or '', '^(%-?%d+) (%d+) (%d+)$')
  end
  if offset then
    clock_offset, clock_last = tonumber(offset), tonumber(last)
    stands = redis_now < clock_last - 1000 or redis_now > tonumber(latest)
    now = clock_offset + (stands and clock_last or redis_now)
  end
end
