-- Writes down that the time of the fleet is `now` where Redis's clock is `redis_now`. Before `longest` milliseconds are over, an
-- engine sends its heartbeat. What the keys hold says lib/fleet/time.lua.
local function keep_time(clock, clock_copy, now, redis_now, longest)
  local offset, latest = now - redis_now, redis_now + longest + 1000
  redis.call('HSET', clock, 'offset', offset, 'last', redis_now, 'until', latest)
  redis.call('SET', clock_copy, string.format('%d %d %d', offset, redis_now, latest))
end
