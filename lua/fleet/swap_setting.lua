--[[
Changes a setting of the fleet, which all engines then know before their next mutation.

KEYS  1 routes (hash)   2 routes version   3 routes log (stream)
ARGV  1 setting: its field of the routes, which begins with a colon   2 its value until now   3 its value from now on

Reply: 1, or 0 where it had another value: nothing changed
]]

if redis.call('HGET', KEYS[1], ARGV[1]) ~= ARGV[2] then
  return 0
end
redis.call('XLEN', KEYS[3])
local version_key, log_key, changes = KEYS[2], KEYS[3], {ARGV[1], ARGV[3]}
--- @include "fleet/change_routes"
redis.call('HSET', KEYS[1], ARGV[1], ARGV[3])
redis.call('PUBLISH', KEYS[1], '')
return 1
