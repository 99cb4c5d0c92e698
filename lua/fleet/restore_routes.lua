--[[
Writes the routes down again where somebody has removed them, as an engine remembers them. What has been written since stays.

KEYS  1 routes (hash)   2 routes_version (string)   3 engines (hash)
ARGV  fields and texts in turn

Reply: 1, or 0 where they are there, or where their version and the engines are gone, too, as after a FLUSHDB: nothing changed
]]

local routes, routes_version, engines = KEYS[1], KEYS[2], KEYS[3]

if redis.call('HEXISTS', routes, ':began') == 1 then
  return 0
end
if not redis.call('GET', routes_version) then
  if redis.call('EXISTS', engines) == 0 then
    return 0
  end
  local time = redis.call('TIME')
  redis.call('SET', routes_version, string.format('%d', time[1] * 1000000 + time[2]))
end
for at = 1, #ARGV, 2 do
  local field, text = ARGV[at], ARGV[at + 1]
  redis.call('HSETNX', routes, field, text)
end
redis.call('INCR', routes_version) -- a version that is not in the log: every engine reads the whole table
redis.call('PUBLISH', routes, '')
return 1
