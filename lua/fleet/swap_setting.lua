--[[
Changes a setting of the fleet that has a certain value, which all engines then know before their next mutation.

KEYS  1 routes (hash)   2 routes_version (string)   3 routes_log (stream)
ARGV  1 setting: its field of the routes, which begins with a colon   2 before: its value until now   3 after: from now on

Reply: 1, or 0 where it had another value: nothing changed
]]

local routes, routes_version, routes_log = KEYS[1], KEYS[2], KEYS[3]
local setting, before, after = ARGV[1], ARGV[2], ARGV[3]

if redis.call('HGET', routes, setting) ~= before then
  return 0
end
redis.call('XLEN', routes_log)
--- @include "fleet/change_routes"
change_routes(routes, routes_version, routes_log, {setting, after})
redis.call('PUBLISH', routes, '')
return 1
