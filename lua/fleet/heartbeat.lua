--[[
Says that an engine lives, and keeps the time of the fleet.

KEYS  1 engines (hash)   2 heartbeat (string)   3 clock (hash; lib/fleet/now.lua, also its copy)
ARGV  1 engine   2 milliseconds to live   3 what people know the engine by   4 what stands among the engines from now on: it has to
      be another each time, so that others see by their own clocks whether the heart beats   5 the time of the fleet, as the engine
      has it by its own clock since the last time, '' where it has none

Reply, an array that begins with a word:
  OK now     it counts as alive for so long; the time of the fleet
  FENCED     it has been declared dead: it has to begin afresh, under another id
]]

if redis.call('HEXISTS', KEYS[1], ARGV[1]) == 0 then
  return {'FENCED'}
end
-- When memory is full, hearts have to beat on: PEXPIRE needs none, and no write of a script is refused after its first one.
if redis.call('PEXPIRE', KEYS[2], ARGV[2]) == 0 then
  redis.call('SET', KEYS[2], ARGV[3], 'PX', ARGV[2])
end
redis.call('HSET', KEYS[1], ARGV[1], ARGV[4])
local clock, engines = KEYS[3], KEYS[1]
--- @include "fleet/now"
if stands and ARGV[5] ~= '' then
  now, stands = tonumber(ARGV[5]), false
end
if not stands then
  --- @include "fleet/keepers"
  --- @include "fleet/keep_time"
end
return {'OK', now}
