--[[
Counts lanes again that have an event in a queue's stream, where somebody has removed what was counted.

KEYS  1 stream of the queue   2 busy (hash)   then of each lane: wait (list)
ARGV  of each lane: its name, the id of its event in the stream, bytes of that

Reply: the numbers of the lanes (from 1) whose list is of another type: they have not been counted
]]

local wrong, entries, bytes = {}, 0, 0
for number = 1, #KEYS - 2 do
  local lane, id, size = ARGV[3 * number - 2], ARGV[3 * number - 1], tonumber(ARGV[3 * number])
  if redis.call('HEXISTS', KEYS[2], lane) == 0 and redis.call('XRANGE', KEYS[1], id, id)[1] then
    local waiting = redis.pcall('LLEN', KEYS[2 + number])
    if type(waiting) == 'table' then
      wrong[#wrong + 1] = number
    else
      local outstanding = 1 + math.floor(waiting / 6)
      redis.call('HSET', KEYS[2], lane, outstanding)
      entries, bytes = entries + outstanding, bytes + outstanding * size
    end
  end
end
if entries > 0 then
  redis.call('HINCRBY', KEYS[2], 'entries', entries)
  redis.call('HINCRBY', KEYS[2], 'bytes', bytes)
end
return wrong
