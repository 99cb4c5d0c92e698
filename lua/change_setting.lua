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
local version = redis.call('INCR', KEYS[2])
redis.call('XADD', KEYS[3], 'MAXLEN', 1000, string.format('%d-0', version), ARGV[1], ARGV[3])
redis.call('HSET', KEYS[1], ARGV[1], ARGV[3])
return 1
