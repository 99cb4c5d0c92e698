--[[
Removes entries of a queue's stream that are no events of ours; they count as lost.

KEYS  1 stream of the queue   2 subscription (hash)
ARGV  the entry ids

Reply: how many there were still
]]

local removed = 0
for _, id in ipairs(ARGV) do
  redis.pcall('XACK', KEYS[1], 'engines', id)
  removed = removed + redis.call('XDEL', KEYS[1], id)
end
if removed > 0 and redis.call('EXISTS', KEYS[2]) == 1 then
  redis.call('HINCRBY', KEYS[2], 'lost', removed)
end
return removed
