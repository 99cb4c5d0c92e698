--[[
Counts lanes again that have an event in a queue's stream, where somebody has removed what was counted.

KEYS  1 stream (stream)   2 busy (hash)   then of each lane: wait (list)
ARGV  of each lane: its name, the id of its event in the stream, bytes of that

Reply: the numbers of the lanes (from 1) whose list is of another type: they have not been counted
]]

local stream, busy = KEYS[1], KEYS[2]

local wrong, entries, bytes = {}, 0, 0
for number = 1, #KEYS - 2 do
  local lane, id, size, wait = ARGV[3 * number - 2], ARGV[3 * number - 1], tonumber(ARGV[3 * number]), KEYS[2 + number]
  if redis.call('HEXISTS', busy, lane) == 0 and redis.call('XRANGE', stream, id, id)[1] then
    local waiting = redis.pcall('LLEN', wait)
    if type(waiting) == 'table' then
      wrong[#wrong + 1] = number
    else
      local outstanding = 1 + math.floor(waiting / 6)
      redis.call('HSET', busy, lane, outstanding)
      entries, bytes = entries + outstanding, bytes + outstanding * size
    end
  end
end
if entries > 0 then
  redis.call('HINCRBY', busy, 'entries', entries)
  redis.call('HINCRBY', busy, 'bytes', bytes)
end
return wrong
