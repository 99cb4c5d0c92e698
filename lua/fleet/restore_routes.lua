--[[
Writes the routes down again where somebody has removed them, as an engine remembers them. What has been written since stays.

KEYS  1 routes (hash)   2 routes version
ARGV  fields and texts in turn

Reply: 1, or 0 where they are there: nothing changed
]]

if redis.call('HEXISTS', KEYS[1], ':began') == 1 then
  return 0
end
if not redis.call('GET', KEYS[2]) then
  local time = redis.call('TIME')
  redis.call('SET', KEYS[2], string.format('%d', time[1] * 1000000 + time[2]))
end
for at = 1, #ARGV, 2 do
  redis.call('HSETNX', KEYS[1], ARGV[at], ARGV[at + 1])
end
redis.call('INCR', KEYS[2]) -- a version that is not in the log: every engine reads the whole table
redis.call('PUBLISH', KEYS[1], '')
return 1
