--[[
Removes the queue of a subscription that has ended. Called again and again, each time with the lists of the lanes it has named.

KEYS  1 subscription (hash)   2 stream (stream)   3 busy (hash)   4 orphans (sorted set)   5 lineages (hash)
      then of each lane: wait (list)
ARGV  1 queue   then the lanes

Reply, an array that begins with a word:
  LANES lanes      1000 at most that have events waiting: call again with them
  DONE events      all is gone; how many events there were
  KEPT             the subscription has not ended, or is gone: nothing changed
]]

local subscription, stream, busy, orphans, lineages = KEYS[1], KEYS[2], KEYS[3], KEYS[4], KEYS[5]
local queue = ARGV[1]

if redis.call('HEXISTS', subscription, 'ending') == 0 then
  return {'KEPT'}
end
for number = 2, #ARGV do
  local lane, wait = ARGV[number], KEYS[4 + number]
  redis.call('DEL', wait)
  redis.call('HDEL', busy, lane)
end
local events, lanes, cursor = redis.call('HGET', busy, 'entries'), {}, '0'
repeat
  local page = redis.call('HSCAN', busy, cursor, 'COUNT', 1000)
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
redis.call('DEL', stream)
redis.call('DEL', busy)
redis.call('DEL', lineages)
redis.call('DEL', subscription)
redis.call('ZREM', orphans, queue)
return {'DONE', tonumber(events or 0)}
