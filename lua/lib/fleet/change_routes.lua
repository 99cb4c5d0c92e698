-- Step: raises the version of the routes, and logs `changes` (fields and texts in turn) under it. Takes the keys `version_key` and
-- `log_key`; gives `version`, a text.
--
-- A version has never been before: where there is none, or somebody has brought an old one back, the next one is the time in
-- microseconds, or what follows the last one in the log.

local version = string.format('%d', redis.call('INCR', version_key))
local logged = version ~= '1' and redis.pcall('XADD', log_key, 'MAXLEN', 1000, version .. '-0', unpack(changes))
if not logged or type(logged) == 'table' and logged.err then
  local last = redis.call('XREVRANGE', log_key, '+', '-', 'COUNT', 1)[1]
  local following = last and string.match(last[1], '^%d+') + 1 or 0
  local began = redis.call('TIME')
  version = string.format('%d', math.max(following, began[1] * 1000000 + began[2]))
  redis.call('SET', version_key, version)
  redis.call('XADD', log_key, 'MAXLEN', 1000, version .. '-0', unpack(changes))
end
