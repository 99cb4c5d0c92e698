--[[
Changes settings of the fleet, which all engines then know before their next mutation.

KEYS  1 routes (hash)   2 routes version   3 routes log (stream)   4 hold
ARGV  1 version that the engine knows, '' where it does not want to be told   then of each setting: its field of the routes, which
      begins with a colon, and its text

Reply, an array that begins with a word:
  DECLARED version changes   what has changed since the version that the engine knows, 1000 entries of the log at most; nothing
                             where it does not want to be told
  HOLD                       the routes have to hold still for a moment: nothing changed
]]

local changes = {}
for setting = 2, #ARGV, 2 do
  if redis.call('HGET', KEYS[1], ARGV[setting]) ~= ARGV[setting + 1] then
    changes[#changes + 1] = ARGV[setting]
    changes[#changes + 1] = ARGV[setting + 1]
  end
end
redis.call('XLEN', KEYS[3])
local known = redis.call('GET', KEYS[2]) or '0'
if changes[1] then
  if redis.call('EXISTS', KEYS[4]) == 1 then
    return {'HOLD'}
  end
  local version_key, log_key = KEYS[2], KEYS[3]
  --- @include "fleet/change_routes"
  known = version
  redis.call('HSET', KEYS[1], unpack(changes))
  redis.call('PUBLISH', KEYS[1], '')
end
return {'DECLARED', known, ARGV[1] ~= '' and redis.call('XRANGE', KEYS[3], '(' .. ARGV[1], '+', 'COUNT', 1000) or {}}
