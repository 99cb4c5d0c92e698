--[[
Says that an engine lives, and keeps the time of the fleet.

KEYS  1 engines (hash)   2 heartbeat (string)   3 clock (hash; lib/fleet/time.lua)   4 clock_copy (string)
ARGV  1 engine   2 ttl: milliseconds to live   3 name: what people know the engine by   4 sign: what stands among the engines from
      now on; it has to be another each time, so that others see by their own clocks whether heartbeats come   5 own_now: the time
      of the fleet, as the engine has it by its own clock since the last time, '' where it has none

Reply, an array that begins with a word:
  OK now     it counts as alive for so long; the time of the fleet
  FENCED     it has been declared dead: it has to begin afresh, under another id
]]

local engines, heartbeat, clock, clock_copy = KEYS[1], KEYS[2], KEYS[3], KEYS[4]
local engine, ttl, name, sign, own_now = ARGV[1], tonumber(ARGV[2]), ARGV[3], ARGV[4], ARGV[5]

if redis.call('HEXISTS', engines, engine) == 0 then
  return {'FENCED'}
end
-- When memory is full, heartbeats have to go on: PEXPIRE needs none, and no write of a script is refused after its first one.
if redis.call('PEXPIRE', heartbeat, ttl) == 0 then
  redis.call('SET', heartbeat, name, 'PX', ttl)
end
redis.call('HSET', engines, engine, sign)
--- @include "fleet/time"
local now, stands, redis_now = fleet_time(clock, clock_copy)
if stands and own_now ~= '' then
  now, stands = tonumber(own_now), false
end
if not stands then
  --- @include "fleet/keepers"
  --- @include "fleet/keep_time"
  local longest = keepers_besides(engine, ttl, engines)
  keep_time(clock, clock_copy, now, redis_now, longest)
end
return {'OK', now}
