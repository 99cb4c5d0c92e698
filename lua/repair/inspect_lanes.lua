--[[
Counts the lanes of a queue whose lists do not hold what should wait in them, and changes nothing.

KEYS  1 busy (hash)   then of each lane: wait (list)
ARGV  the lanes

Reply: how many there are
]]

local busy = KEYS[1]

local uneven = 0
for number, lane in ipairs(ARGV) do
  local outstanding = tonumber(redis.call('HGET', busy, lane) or 0)
  local items = redis.pcall('LLEN', KEYS[number + 1])
  if type(items) ~= 'number' or math.floor(items / 6) ~= math.max(0, outstanding - 1) then
    uneven = uneven + 1
  end
end
return uneven
