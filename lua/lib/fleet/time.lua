-- The time of the fleet, in milliseconds since 1970. Also whether it stands still, since it is not known just now; Redis's own
-- clock; and, where something is known of the time, what has to be added to Redis's clock, and what that was at the last heartbeat.
--
-- `clock` is a hash: `offset`, from Redis's clock to the time of the fleet; `last`, what Redis's clock was at the last heartbeat of
-- any engine; `until`, what it can be at most before the next one. Outside of these it has been set, or another server answers:
-- then the time stands still until the next heartbeat, which tells how long it has been by a clock that nobody sets. `clock_copy`
-- has the three as one text, for when somebody removes the hash or writes something else into it; nil where no call names it.
local function fleet_time(clock, clock_copy)
  local time = redis.call('TIME')
  local redis_now = time[1] * 1000 + math.floor(time[2] / 1000)
  local known = redis.call('HMGET', clock, 'offset', 'last', 'until')
  local text = (known[1] or '') .. ' ' .. (known[2] or '') .. ' ' .. (known[3] or '')
  local offset, last, latest = string.match(text, '^(%-?%d+) (%d+) (%d+)$')
  if not offset and clock_copy then
    local copy = redis.pcall('GET', clock_copy)
    offset, last, latest = string.match(type(copy) == 'string' and copy or '', '^(%-?%d+) (%d+) (%d+)$')
  end
  if not offset then
    return redis_now, true, redis_now, nil, nil
  end
  offset, last = tonumber(offset), tonumber(last)
  local stands = redis_now < last - 1000 or redis_now > tonumber(latest)
  return offset + (stands and last or redis_now), stands, redis_now, offset, last
end
