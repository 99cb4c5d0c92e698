--[[
Changes settings of the fleet, which all engines then know before their next mutation.

KEYS  1 routes (hash)   2 routes_version (string)   3 routes_log (stream)   4 hold (string)   5 engines (hash)
ARGV  1 known_version: of the routes, which the engine knows, '' where it does not want to be told   then of each setting: its field
      of the routes, which begins with a colon, and its text

Reply, an array that begins with a word:
  CHANGED version changes    what has changed since the version that the engine knows, 1000 entries of the log at most; nothing
                             where it does not want to be told
  HOLD                       the routes have to hold still for a moment: nothing changed

Where neither a version nor engines are there, the database has been emptied, and its routes begin as in fleet/join.lua: every
engine sees that they are others.
]]

local routes, routes_version, routes_log, hold, engines = KEYS[1], KEYS[2], KEYS[3], KEYS[4], KEYS[5]
local known_version = ARGV[1]

local changes = {}
for at = 2, #ARGV, 2 do
  local setting, text = ARGV[at], ARGV[at + 1]
  if redis.call('HGET', routes, setting) ~= text then
    changes[#changes + 1] = setting
    changes[#changes + 1] = text
  end
end
redis.call('XLEN', routes_log)
local version = redis.call('GET', routes_version) or '0'
if changes[1] then
  if redis.call('EXISTS', hold) == 1 then
    return {'HOLD'}
  end
  if version == '0' and redis.call('EXISTS', engines) == 0 then
    local time = redis.call('TIME')
    version = string.format('%d', time[1] * 1000000 + time[2])
    redis.call('SET', routes_version, version)
    redis.call('HSETNX', routes, ':began', version)
  end
  --- @include "fleet/change_routes"
  version = change_routes(routes, routes_version, routes_log, changes)
  redis.call('PUBLISH', routes, '')
end
local log = known_version ~= '' and redis.call('XRANGE', routes_log, '(' .. known_version, '+', 'COUNT', 1000) or {}
return {'CHANGED', version, log}
