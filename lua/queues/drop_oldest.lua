--[[
Drops events of a full queue until one more finds room, one at least: those that have been ready for longest, else the first that
wait in the lane given. What is out is never dropped.

KEYS  1 stream (stream)   2 subscription (hash)   3 busy (hash)   4 wait (list of a lane)   5 lineages (hash)
ARGV  1 scope   2 key   3 lane: of these   4 most_entries   5 most_bytes   6 size: bytes of the new event

Reply, an array that begins with a word, and ends with how many were dropped:
  OK dropped                    there is room
  NEED scope key dropped        the next to drop is of this scope and key: call again with their lane
  LANE lane dropped             the next to drop waits in this lane: call again with it
  NONE dropped                  there is nothing left that could be dropped
]]

local stream, subscription, busy, wait, lineages = KEYS[1], KEYS[2], KEYS[3], KEYS[4], KEYS[5]
local scope, key, lane = ARGV[1], ARGV[2], ARGV[3]
local most_entries, most_bytes, size = tonumber(ARGV[4]), tonumber(ARGV[5]), tonumber(ARGV[6])

--- @include "queues/next_waiting"
local held = redis.call('HMGET', busy, 'entries', 'bytes', lane)
local entries, bytes, outstanding = tonumber(held[1] or 0), tonumber(held[2] or 0), tonumber(held[3] or 0)
local ready, ended = 0, 0
local reply = {'OK'}
redis.call('LLEN', wait)
local delivered = '-'
for _, group in ipairs(redis.call('XINFO', 'GROUPS', stream)) do
  for at = 1, #group, 2 do
    if group[at] == 'last-delivered-id' then
      delivered = '(' .. group[at + 1]
    end
  end
end

repeat
  local oldest = redis.call('XRANGE', stream, delivered, '+', 'COUNT', 1)[1]
  local event = oldest and oldest[2]
  if event and (event[4] ~= scope or event[6] ~= key) then
    reply = {'NEED', event[4], event[6]}
    break
  elseif event then
    redis.call('XDEL', stream, oldest[1])
    entries, bytes, ended = entries - 1, bytes - #event[4] - #event[6] - #event[10] - #event[12], ended + 1
    --- @include "queues/promote"
  else
    local waiting = next_waiting(wait, lane)
    if waiting then
      if string.byte(waiting[1]) == 43 then
        redis.pcall('HDEL', lineages, waiting[1])
      end
      entries, bytes, ended = entries - 1, bytes - #waiting[2] - #waiting[3] - #waiting[5] - #waiting[6], ended + 1
      outstanding = redis.call('HINCRBY', busy, lane, -1)
    else
      if outstanding > 1 and redis.call('LLEN', wait) == 0 then -- somebody has removed what should wait here
        redis.call('HINCRBY', busy, 'lost', outstanding - 1)
        redis.call('HSET', busy, lane, 1, 'entries', entries - outstanding + 1)
        entries, outstanding = entries - outstanding + 1, 1
      end
      reply = {'NONE'}
      local cursor = '0'
      repeat
        local page = redis.call('HSCAN', busy, cursor, 'COUNT', 100)
        cursor = page[1]
        for at = 1, #page[2], 2 do
          local first = string.byte(page[2][at])
          if (first == 126 or first < 58) and tonumber(page[2][at + 1]) > 1 then
            reply = {'LANE', page[2][at]}
          end
        end
      until cursor == '0' or reply[1] == 'LANE'
      break
    end
  end
until entries < most_entries and bytes <= most_bytes - size

if ended > 0 then
  redis.call('HINCRBY', subscription, 'dropped', ended)
  --- @include "queues/store_counts"
end
reply[#reply + 1] = ended
return reply
