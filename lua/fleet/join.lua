--[[
Makes an engine one of the engines. What all of them have to agree on is decided by the first; it is kept beside the routes, in
fields whose names begin with a colon.

KEYS  1 routes (hash)   2 routes_version (string)   3 routes_log (stream)   4 engines (hash)   5 format (string)
      6 heartbeat (string)   7 clock (hash; lib/fleet/time.lua)   8 clock_copy (string)   9 orphans (sorted set)
      then of each other engine: heartbeat (string)
ARGV  1 engine   2 ttl: milliseconds to live   3 layout: its version   4 is_watching: '1' where foreign writes are watched, else '0'
      5 name: what people know the engine by   6 sign: what stands among the engines, see fleet/heartbeat.lua   7 own_now: the time
      of the fleet, as the engine has it by its own clock, '' where it has none   8 stood: what STANDS has answered for as long as
      it said, '' where that has not been   9 found_history   10 history: the setting of the change logs, as the caller has found
      it, and as it is to be; '' for none   then the other engines

Reply, an array that begins with a word:
  OK now             it is one of the engines; the time of the fleet
  OTHERS             the others, or the setting found, are not those that were given: nothing changed, read them and call again
  STANDS last wait   nobody can tell the time just now, unless one of the engines lives that stand there: it does so within so many
                     milliseconds. Nothing changed; call again, and with `last` when it has been the answer for so long
  DISAGREE engine setting    this one lives, and has another `foreign_writes` or `history` than the caller: nothing changed

The routes' version begins with the time in microseconds, so that none comes again after a database has been emptied. `:began`
is that first version; where another engine stands, only the version has been removed, and `:began` stays what that one remembers.
`:foreign_writes` is there where they are watched: the generation of the shadows, and ` filling` until
they are complete. `:history` is there where scopes have change logs (iii_state/adapters/redis/mutations/logs.py).
]]

local routes, routes_version, routes_log, engines, format = KEYS[1], KEYS[2], KEYS[3], KEYS[4], KEYS[5]
local heartbeat, clock, clock_copy, orphans = KEYS[6], KEYS[7], KEYS[8], KEYS[9]
local engine, ttl, layout, is_watching, name, sign = ARGV[1], tonumber(ARGV[2]), ARGV[3], ARGV[4], ARGV[5], ARGV[6]
local own_now, stood, found_history, history = ARGV[7], ARGV[8], ARGV[9], ARGV[10]

--- @include "fleet/time"
local now, stands, redis_now, clock_offset, clock_last = fleet_time(clock, clock_copy)
--- @include "fleet/keepers"
local longest, keepers = keepers_besides(engine, ttl, engines)
local version = redis.call('GET', routes_version)
local watched = redis.call('HGET', routes, ':foreign_writes')
redis.call('XLEN', routes_log)
if (redis.call('HGET', routes, ':history') or '') ~= found_history then
  return {'OTHERS'}
end
local changes = (is_watching == '1') ~= (watched and true or false)
if changes or history ~= found_history then
  local others = #KEYS - 9
  if redis.call('HLEN', engines) - redis.call('HEXISTS', engines, engine) ~= others then
    return {'OTHERS'}
  end
  for number = 1, others do
    local other, other_heartbeat = ARGV[10 + number], KEYS[9 + number]
    if redis.call('HEXISTS', engines, other) == 0 then
      return {'OTHERS'}
    elseif redis.call('EXISTS', other_heartbeat) == 1 then
      return {'DISAGREE', other, changes and 'foreign_writes' or 'history'}
    end
  end
end

local standing = clock_last and string.format('%d', clock_last) or 'unknown'
if stands and own_now == '' and keepers > 0 and stood ~= standing then
  return {'STANDS', standing, longest}
end

redis.call('SET', format, layout, 'NX')
local time = redis.call('TIME')
if not version then
  version = string.format('%d', time[1] * 1000000 + time[2])
  redis.call('SET', routes_version, version)
  if redis.call('HLEN', engines) == redis.call('HEXISTS', engines, engine) then
    redis.call('HSETNX', routes, ':began', version)
  end
end
--- @include "fleet/change_routes"
if changes then
  local generation = is_watching == '1' and string.format('%d filling', time[1] * 1000000 + time[2]) or ''
  change_routes(routes, routes_version, routes_log, {':foreign_writes', generation})
  redis.call('PUBLISH', routes, '')
end
if history ~= found_history then
  redis.call('SET', format, layout)
  change_routes(routes, routes_version, routes_log, {':history', history})
  redis.call('PUBLISH', routes, '')
end
redis.call('SET', heartbeat, name, 'PX', ttl)
redis.call('HSET', engines, engine, sign)

-- Where no engine has lived for a while, nobody can tell a clock that was set from time that has passed. It counts as passed, but
-- no queue ends for that: each waits for as long as it had still to wait.
if stands and own_now ~= '' then
  now = tonumber(own_now)
elseif stands and clock_last and redis_now > clock_last then
  now = redis_now + clock_offset
  for _, queue in ipairs(redis.call('ZRANGEBYSCORE', orphans, '(0', '+inf')) do
    redis.call('ZINCRBY', orphans, redis_now - clock_last, queue)
  end
end
--- @include "fleet/keep_time"
keep_time(clock, clock_copy, now, redis_now, longest)
return {'OK', now}
