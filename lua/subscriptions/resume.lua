--[[
Ends the pause of a subscription: its queues can be taken from again.

KEYS  1 paused (hash)   then of each of its queues: stream (stream)
ARGV  1 subscription: its id

Reply: 1, or 0 where it was not paused
]]

local paused = KEYS[1]
local subscription = ARGV[1]

local was_paused = redis.call('HDEL', paused, subscription)
for number = 2, #KEYS do
  redis.call('PUBLISH', KEYS[number], '')
end
return was_paused
