-- Step: answers a call whose engine does not know the current routes, and goes on with any other.
-- Takes: routes_version, routes_log, known_version.

do
  local version = redis.call('GET', routes_version) or '0'
  if version ~= known_version then
    return {'STALE', version, redis.call('XRANGE', routes_log, '(' .. known_version, '+', 'COUNT', 1000)}
  end
end
