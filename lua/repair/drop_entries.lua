--[[
Removes entries of a queue's stream that are no events of ours; they count as lost.

KEYS  1 stream (stream)   2 subscription (hash)
ARGV  the entry ids

Reply: how many there were still
]]

local stream, subscription = KEYS[1], KEYS[2]

local removed = 0
for _, id in ipairs(ARGV) do
  redis.pcall('XACK', stream, 'engines', id)
  removed = removed + redis.call('XDEL', stream, id)
end
if removed > 0 and redis.call('EXISTS', subscription) == 1 then
  redis.call('HINCRBY', subscription, 'lost', removed)
end
return removed
