--[[
Removes the queue of a subscription that has ended. Called again and again, each time with the lists of the lanes it has named.

KEYS  1 subscription (hash)   2 stream of the queue   3 busy (hash)   4 orphans (sorted set)   then of each lane: wait (list)
ARGV  1 queue   then the lanes

Reply, an array that begins with a word:
  LANES lanes      1000 at most that have events waiting: call again with them
  DONE events      all is gone; how many events there were
  KEPT             the subscription has not ended, or is gone: nothing changed
]]

if redis.call('HEXISTS', KEYS[1], 'ending') == 0 then
  return {'KEPT'}
end
for number = 2, #ARGV do
  redis.call('DEL', KEYS[3 + number])
  redis.call('HDEL', KEYS[3], ARGV[number])
end
local events, lanes, cursor = redis.call('HGET', KEYS[3], 'entries'), {}, '0'
repeat
  local page = redis.call('HSCAN', KEYS[3], cursor, 'COUNT', 1000)
  cursor = page[1]
  for at = 1, #page[2], 2 do
    local first = string.byte(page[2][at])
    if (first == 126 or first < 58) and tonumber(page[2][at + 1]) > 1 and #lanes < 1000 then
      lanes[#lanes + 1] = page[2][at]
    end
  end
until cursor == '0' or #lanes >= 1000
if lanes[1] then
  return {'LANES', lanes}
end
redis.call('DEL', KEYS[2])
redis.call('DEL', KEYS[3])
redis.call('DEL', KEYS[1])
redis.call('ZREM', KEYS[4], ARGV[1])
return {'DONE', tonumber(events or 0)}
