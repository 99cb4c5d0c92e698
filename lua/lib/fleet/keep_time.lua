-- Step: writes down that it is `now`. Takes the key `clock`, `now`, `redis_now` and `longest`: before that is over, some heart beats.

do
  local offset, latest = now - redis_now, redis_now + longest + 1000
  redis.call('HSET', clock, 'offset', offset, 'last', redis_now, 'until', latest)
  redis.call('SET', clock .. ':copy', string.format('%d %d %d', offset, redis_now, latest))
end
