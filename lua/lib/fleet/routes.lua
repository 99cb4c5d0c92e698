-- Step: answers a call whose engine does not know the current routes, and goes on with any other.

local version = redis.call('GET', KEYS[4]) or '0'
if version ~= ARGV[4] then
  return {'STALE', version, redis.call('XRANGE', KEYS[5], '(' .. ARGV[4], '+', 'COUNT', 1000)}
end
