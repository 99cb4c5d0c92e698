--[[
Reads a page of a queue's stream. What has been taken, but is pending nowhere and not planned, is made ready again, under a new id.

Entries are read one at a time: Redis makes strings of all the values of an entry, and how large the next one is, only reading it
tells. So a page is never larger than its bound and one event.

KEYS  1 stream (stream)   2 later (sorted set)   3 routes (hash)   4 subscription (hash)   5 clock (hash)
      6 clock_copy (string)   7 busy (hash)
ARGV  1 queue   2 behind: id behind which to begin, `-` for the first   3 most: entries   4 most_bytes: after which the page ends

Reply: the id of the last one, '' for none; bytes that were looked at; how many were made ready; the ids of those that are no
events; and id, write id, scope, key and bytes of each event of the page in turn
]]

local stream, later, routes, subscription, clock = KEYS[1], KEYS[2], KEYS[3], KEYS[4], KEYS[5]
local clock_copy, busy = KEYS[6], KEYS[7]
local queue, behind, most, most_bytes = ARGV[1], ARGV[2], tonumber(ARGV[3]), tonumber(ARGV[4])

if redis.call('HEXISTS', routes, queue) == 0 then -- the queue has ended meanwhile
  return {'', 0, 0, 0, {}}
end
if not redis.pcall('XGROUP', 'CREATE', stream, 'engines', '$', 'MKSTREAM').err then -- what was pending has gone with the group
  --- @include "fleet/time"
  -- Also where it was gone before: the time to end begins again.
  redis.pcall('HSET', subscription, 'cut', (fleet_time(clock, clock_copy)))
  if redis.pcall('HEXISTS', busy, 'entries') == 0 then
    redis.call('HSET', busy, 'doubt', '1') -- there may be events that wait, see lib/queues/check_room.lua
  end
end
local milliseconds, sequence = 0, 0
for _, group in ipairs(redis.call('XINFO', 'GROUPS', stream)) do
  local described = {}
  for at = 1, #group, 2 do
    described[group[at]] = group[at + 1]
  end
  if described.name == 'engines' then
    milliseconds, sequence = string.match(described['last-delivered-id'], '^(%d+)-(%d+)$')
    milliseconds, sequence = tonumber(milliseconds), tonumber(sequence)
  end
end

local first = behind == '-' and '-' or '(' .. behind
local types = {created = true, updated = true, deleted = true}
local last, bytes, ready, wrong, events = '', 0, 0, {}, {}
for _ = 1, most do
  local entry = bytes < most_bytes and redis.call('XRANGE', stream, first, '+', 'COUNT', 1)[1]
  if not entry then
    break
  end
  local id, event = entry[1], entry[2]
  last, first = id, '(' .. id
  if not event[12] or event[1] ~= 'w' or not types[event[8]] then
    wrong[#wrong + 1] = id
    for _, item in ipairs(event) do
      bytes = bytes + #item
    end
  else
    local size = #event[4] + #event[6] + #event[10] + #event[12]
    bytes = bytes + size
    local time, number = string.match(id, '^(%d+)-(%d+)$')
    time, number = tonumber(time), tonumber(number)
    local is_taken = time < milliseconds or time == milliseconds and number <= sequence
    if is_taken and not redis.call('ZSCORE', later, queue .. ':' .. id)
      and not redis.call('XPENDING', stream, 'engines', id, id, 1)[1] then
      redis.call('XADD', stream, '*', unpack(event))
      redis.call('XDEL', stream, id)
      ready = ready + 1
    else
      for _, item in ipairs({id, event[2], event[4], event[6], size}) do
        events[#events + 1] = item
      end
    end
  end
end
if ready > 0 then
  redis.call('PUBLISH', stream, '')
end
return {last, bytes, ready, wrong, events}
