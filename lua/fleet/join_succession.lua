--[[
Puts a worker into the succession of those that serve this store to engines, or says that it is still there. Who has not said so in
time is out of it, and a succession without workers is gone.

KEYS  1 succession (hash: worker -> its number and until when it counts, in milliseconds; '#' -> the last number)
      2 clock (hash)   3 clock_copy (string)
ARGV  1 worker   2 ttl: milliseconds for which it counts; 0 takes it out

Reply: the workers before it
]]

local succession, clock, clock_copy = KEYS[1], KEYS[2], KEYS[3]
local worker, ttl = ARGV[1], tonumber(ARGV[2])

--- @include "fleet/time"
local now = fleet_time(clock, clock_copy)
local own
local longest = ttl
local others = {}
local fields = redis.call('HGETALL', succession)
for at = 1, #fields, 2 do
  local name = fields[at]
  local number, counts_until = string.match(fields[at + 1], '^(%d+) (%d+)$')
  if not number then
    -- the last number
  elseif name == worker then
    own = tonumber(counts_until) > now and tonumber(number) or nil
  elseif tonumber(counts_until) <= now then
    redis.call('HDEL', succession, name)
  else
    others[#others + 1] = {name, tonumber(number)}
    longest = math.max(longest, tonumber(counts_until) - now)
  end
end
if ttl == 0 then
  if #others > 0 then
    redis.call('HDEL', succession, worker)
  else
    redis.call('DEL', succession)
  end
  return {}
end

own = own or redis.call('HINCRBY', succession, '#', 1)
redis.call('HSET', succession, worker, string.format('%d %.0f', own, now + ttl))
redis.call('PEXPIRE', succession, string.format('%.0f', longest))
local before = {}
for _, other in ipairs(others) do
  if other[2] < own then
    before[#before + 1] = other[1]
  end
end
return before
