--[[
Drops events of a full queue until those that are to come find room, one at least: those that have been ready for longest, else the
first that wait in the first of the lanes given. What is out is never dropped.

KEYS  1 stream (stream)   2 subscription (hash)   3 busy (hash)   4 lineages (hash)   then of each lane: wait (list)
ARGV  1 most_entries: there have to be fewer than so many   2 most_bytes   3 size: bytes of the new events
      4 named: so many of those to be dropped next are told at most   then of each lane: scope, key, lane

Reply, an array that begins with a word, and ends with how many were dropped:
  OK scope key … dropped            there is room; what is to be dropped after it is of these scopes and keys
  NEED scope key … dropped          the next to drop are of these scopes and keys: call again with their lanes
  LANE lane dropped                 the next to drop waits in this lane: call again with it
  NONE dropped                      there is nothing left that could be dropped
]]

local stream, subscription, busy, lineages = KEYS[1], KEYS[2], KEYS[3], KEYS[4]
local most_entries, most_bytes, size, named = tonumber(ARGV[1]), tonumber(ARGV[2]), tonumber(ARGV[3]), tonumber(ARGV[4])

--- @include "queues/next_waiting"
local held = redis.call('HMGET', busy, 'entries', 'bytes')
local entries, bytes = tonumber(held[1] or 0), tonumber(held[2] or 0)
local ready, ended, lanes = 0, 0, {}
local reply = {'OK'}
for number = 1, #KEYS - 4 do
  local scope, key = ARGV[3 * number + 2], ARGV[3 * number + 3]
  redis.call('LLEN', KEYS[4 + number])
  lanes[#scope .. ':' .. scope .. key] = number
end
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
  local number = event and lanes[#event[4] .. ':' .. event[4] .. event[6]] or 1
  local wait, lane = KEYS[4 + number], ARGV[3 * number + 4]
  if event and not lanes[#event[4] .. ':' .. event[4] .. event[6]] then
    reply = {'NEED'}
    break
  end
  local outstanding = tonumber(redis.call('HGET', busy, lane) or 0)
  if event then
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
      redis.call('HINCRBY', busy, lane, -1)
    else
      if outstanding > 1 and redis.call('LLEN', wait) == 0 then -- somebody has removed what should wait here
        redis.call('HINCRBY', busy, 'lost', outstanding - 1)
        redis.call('HSET', busy, lane, 1, 'entries', entries - outstanding + 1)
        entries = entries - outstanding + 1
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
local read, from = 0, delivered
while (reply[1] == 'NEED' or reply[1] == 'OK') and #reply <= 2 * named and read < 1048576 do
  local oldest = redis.call('XRANGE', stream, from, '+', 'COUNT', 1)[1]
  if not oldest then
    break
  end
  local event = oldest[2]
  reply[#reply + 1], reply[#reply + 2] = event[4], event[6]
  read, from = read + #event[10] + #event[12], '(' .. oldest[1]
end
reply[#reply + 1] = ended
return reply
