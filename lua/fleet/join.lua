--[[
Makes an engine one of the engines. What all of them have to agree on is decided by the first; it is kept beside the routes, in
fields whose names begin with a colon.

KEYS  1 routes (hash)   2 routes version   3 routes log (stream)   4 engines (hash)   5 format   6 heartbeat of the engine
      7 clock (hash; lib/fleet/now.lua, also its copy)   8 orphans (sorted set)   then the heartbeats of the other engines
ARGV  1 engine   2 milliseconds to live   3 version of the layout   4 whether foreign writes are watched, `1` or `0`
      5 what people know the engine by   6 what stands among the engines   7 the time of the fleet, as the engine has it by its own
      clock, '' where it has none   8 what STANDS has answered for as long as it said, '' where that has not been   then the other
      engines

Reply, an array that begins with a word:
  OK now             it is one of the engines; the time of the fleet
  OTHERS             the others are not those that were given: nothing changed, read them and call again
  STANDS last wait   nobody can tell the time just now, unless one of the engines lives that stand there: it does so within so many
                     milliseconds. Nothing changed; call again, and with `last` when it has been the answer for so long
  DISAGREE engine    this one lives, and watches foreign writes where the caller does not, or does not where the caller does:
                     nothing changed

The routes' version begins with the time in microseconds, so that none comes again after a database has been emptied. `:began`
is that first version; `:foreign_writes` is there where they are watched: the generation of the shadows, and ` filling` until
they are complete.
]]

local clock, engines = KEYS[7], KEYS[4]
--- @include "fleet/now"
--- @include "fleet/keepers"
local version = redis.call('GET', KEYS[2])
local watched = redis.call('HGET', KEYS[1], ':foreign_writes')
redis.call('XLEN', KEYS[3])
local changes = (ARGV[4] == '1') ~= (watched and true or false)
if changes then
  local others = #KEYS - 8
  if redis.call('HLEN', KEYS[4]) - redis.call('HEXISTS', KEYS[4], ARGV[1]) ~= others then
    return {'OTHERS'}
  end
  for number = 1, others do
    if redis.call('HEXISTS', KEYS[4], ARGV[8 + number]) == 0 then
      return {'OTHERS'}
    elseif redis.call('EXISTS', KEYS[8 + number]) == 1 then
      return {'DISAGREE', ARGV[8 + number]}
    end
  end
end

local standing = clock_last and string.format('%d', clock_last) or 'unknown'
if stands and ARGV[7] == '' and keepers > 0 and ARGV[8] ~= standing then
  return {'STANDS', standing, longest}
end

redis.call('SET', KEYS[5], ARGV[3], 'NX')
if not version then
  version = string.format('%d', time[1] * 1000000 + time[2])
  redis.call('SET', KEYS[2], version)
  redis.call('HSET', KEYS[1], ':began', version)
end
if changes then
  local text = ''
  if ARGV[4] == '1' then
    text = string.format('%d filling', time[1] * 1000000 + time[2])
    redis.call('HSET', KEYS[1], ':foreign_writes', text)
  else
    redis.call('HDEL', KEYS[1], ':foreign_writes')
  end
  local version_key, log_key, changes = KEYS[2], KEYS[3], {':foreign_writes', text}
  --- @include "fleet/change_routes"
  redis.call('PUBLISH', KEYS[1], '')
end
redis.call('SET', KEYS[6], ARGV[5], 'PX', ARGV[2])
redis.call('HSET', KEYS[4], ARGV[1], ARGV[6])

-- Where nobody has lived for a while, nobody can tell a clock that was set from time that has passed. It counts as passed, but
-- no queue ends for that: each waits for as long as it had still to wait.
if stands and ARGV[7] ~= '' then
  now = tonumber(ARGV[7])
elseif stands and clock_last and redis_now > clock_last then
  now = redis_now + clock_offset
  for _, queue in ipairs(redis.call('ZRANGEBYSCORE', KEYS[8], '(0', '+inf')) do
    redis.call('ZINCRBY', KEYS[8], redis_now - clock_last, queue)
  end
end
--- @include "fleet/keep_time"
return {'OK', now}
