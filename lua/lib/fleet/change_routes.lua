-- Changes the routes: raises their version, logs `changes` under it, and writes them. `changes` are fields and texts in turn; the
-- text '' removes a field. Answers the new version, a text. What is removed goes first: when memory is full, Redis refuses a
-- script's first write if it could need some, and none after it.
--
-- A version has never been before: where there is none, or somebody has brought an old one back, the next one is the time in
-- microseconds, or what follows the last one in the log. An entry of the log has the id `<version>-0`.
local function change_routes(routes, routes_version, routes_log, changes)
  local written = {}
  for at = 1, #changes, 2 do
    if changes[at + 1] == '' then
      redis.call('HDEL', routes, changes[at])
    else
      written[#written + 1] = changes[at]
      written[#written + 1] = changes[at + 1]
    end
  end
  local version = string.format('%d', redis.call('INCR', routes_version))
  local logged = version ~= '1' and redis.pcall('XADD', routes_log, 'MAXLEN', 1000, version .. '-0', unpack(changes))
  if not logged or type(logged) == 'table' and logged.err then
    local last = redis.call('XREVRANGE', routes_log, '+', '-', 'COUNT', 1)[1]
    local following = last and string.match(last[1], '^%d+') + 1 or 0
    local time = redis.call('TIME')
    version = string.format('%d', math.max(following, time[1] * 1000000 + time[2]))
    redis.call('SET', routes_version, version)
    redis.call('XADD', routes_log, 'MAXLEN', 1000, version .. '-0', unpack(changes))
  end
  if written[1] then
    redis.call('HSET', routes, unpack(written))
  end
  return version
end
