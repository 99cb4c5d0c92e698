--[[
Puts a worker into the line of those that serve this store to engines, or says that it is still there. Who has not said so in
time is out of it, and a line that nobody stands in any more is gone.

KEYS  1 line (hash: worker -> its number and until when it counts, in milliseconds; '#' -> the last number)
      2 clock (hash)
ARGV  1 worker   2 milliseconds for which it counts; 0 takes it out

Reply: the workers before it
]]

local clock = KEYS[2]
--- @include "fleet/now"
local own
local longest = tonumber(ARGV[2])
local others = {}
local entries = redis.call('HGETALL', KEYS[1])
for at = 1, #entries, 2 do
  local worker = entries[at]
  local number, deadline = string.match(entries[at + 1], '^(%d+) (%d+)$')
  if not number then
    -- the last number
  elseif worker == ARGV[1] then
    own = tonumber(deadline) > now and tonumber(number) or nil
  elseif tonumber(deadline) <= now then
    redis.call('HDEL', KEYS[1], worker)
  else
    others[#others + 1] = {worker, tonumber(number)}
    longest = math.max(longest, tonumber(deadline) - now)
  end
end
if ARGV[2] == '0' then
  if #others > 0 then
    redis.call('HDEL', KEYS[1], ARGV[1])
  else
    redis.call('DEL', KEYS[1])
  end
  return {}
end

own = own or redis.call('HINCRBY', KEYS[1], '#', 1)
redis.call('HSET', KEYS[1], ARGV[1], string.format('%d %.0f', own, now + ARGV[2]))
redis.call('PEXPIRE', KEYS[1], string.format('%.0f', longest))
local before = {}
for _, other in ipairs(others) do
  if other[2] < own then
    before[#before + 1] = other[1]
  end
end
return before
