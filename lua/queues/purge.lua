--[[
Drops events of a queue that are not out: of each entry of its stream those that wait behind it in its lane, and then the entry
itself. Events that are out stay, and so do those of the lanes that are not given. Where `most` events have been dropped, or
some 4 MB of them: call again with the entries that are left.

KEYS  1 stream (stream)   2 subscription (hash)   3 busy (hash)   4 lineages (hash)   5 later (sorted set)
      then of each entry: wait (list of its lane)
ARGV  1 queue   2 most: drop so many at most   then of each entry: its id, lane

Reply: how many of the entries, from the first on, are done with; and how many events were dropped
]]

local stream, subscription, busy, lineages, later = KEYS[1], KEYS[2], KEYS[3], KEYS[4], KEYS[5]
local queue, most = ARGV[1], tonumber(ARGV[2])

--- @include "queues/next_waiting"
local held = redis.call('HMGET', busy, 'entries', 'bytes')
redis.call('ZSCORE', later, '')
local entries, bytes, ended, ready, done, dropped_bytes = tonumber(held[1] or 0), tonumber(held[2] or 0), 0, 0, 0, 0
for number = 1, #KEYS - 5 do
  local id, lane, wait = ARGV[2 * number + 1], ARGV[2 * number + 2], KEYS[5 + number]
  local entry = redis.call('XRANGE', stream, id, id)[1]
  if entry then -- else it is done meanwhile, and what was behind it in its lane has an entry of its own
    local outstanding = tonumber(redis.call('HGET', busy, lane) or 0)
    local waiting = outstanding > 1
    while waiting and ended < most and dropped_bytes < 4194304 do
      waiting = outstanding > 1 and next_waiting(wait, lane)
      if waiting then
        if string.byte(waiting[1]) == 43 then
          redis.pcall('HDEL', lineages, waiting[1])
        end
        local size = #waiting[2] + #waiting[3] + #waiting[5] + #waiting[6]
        outstanding, entries, bytes, ended = outstanding - 1, entries - 1, bytes - size, ended + 1
        dropped_bytes = dropped_bytes + size
        redis.call('HSET', busy, lane, outstanding)
      end
    end
    local is_out = redis.call('XPENDING', stream, 'engines', id, id, 1)[1]
    if (waiting or not is_out) and (ended >= most or dropped_bytes >= 4194304) then
      break
    elseif not is_out then
      local fields, size = entry[2], 0
      for at = 4, 12, 2 do
        size = size + (at ~= 8 and #(fields[at] or '') or 0)
      end
      redis.call('XDEL', stream, id)
      redis.call('ZREM', later, queue .. ':' .. id)
      entries, bytes, ended, dropped_bytes = entries - 1, bytes - size, ended + 1, dropped_bytes + size
      --- @include "queues/promote"
    end
  end
  done = done + 1
end
if ended > 0 then
  redis.call('HINCRBY', subscription, 'dropped', ended)
  --- @include "queues/store_counts"
end
if ready > 0 then
  redis.call('PUBLISH', stream, '')
end
return {done, ended}
