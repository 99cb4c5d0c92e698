--[[
Writes down how many events a queue holds, as its lanes add up to. What they take is kept in proportion.

KEYS  1 busy (hash)
ARGV  nothing

Reply: how many events there are
]]

local busy = KEYS[1]

local events = 0
local fields = redis.call('HGETALL', busy)
for at = 1, #fields, 2 do
  local first = string.byte(fields[at])
  if first == 126 or first < 58 then
    events = events + tonumber(fields[at + 1])
  end
end
if events == 0 then
  redis.call('HDEL', busy, 'entries', 'bytes')
else
  local held = redis.call('HMGET', busy, 'entries', 'bytes')
  local entries, bytes = tonumber(held[1] or 0), tonumber(held[2] or 0)
  redis.call('HSET', busy, 'entries', events, 'bytes', entries > 0 and math.floor(bytes * events / entries) or bytes)
end
return events
