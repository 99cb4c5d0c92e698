--[[
Ends the delivery of a lane whose handler has returned, and events that waited behind it and have been handled at the same engine
since; the next event of the lane becomes ready. Takes more, and reads on in the lane where its next event was taken.

While an event of the lane runs there (`keep`), none of it is ever ready for another engine: the next one is taken in the same call,
which nothing else may be ready for. Where something is, that is taken, and nothing is ended.

KEYS  1 stream (stream)   2 engines (hash)   3 busy (hash)   4 lineages (hash)   5 wait (list of the lane)
      6 paused (hash)
ARGV  1 engine   2 want: other deliveries to take   3 keep: '1' where the next event of the lane must be taken, else '0'
      4 peek: how many events behind that to read   5 known: of those that wait, how many are known and not ended by this
      6 id: of the entry   7 lane   8 size: bytes of the event   9 expected: write id of the first of those known, or ''
      10 attempt: of that one, '' for the first   11 crashes   12 begun: '1' where its handler may still be running, else '0'
      13 subscription: its id
      then of each further event that has been handled: write id, bytes of the event

Reply, an array that begins with a word:
  OK ended following entries fence     how many have been ended; what follows, as in lib/queues/peek.lua, the entry of the lane
                                       in front of it; entries and fence as in queues/take.lua
  KEPT ended following entries fence   something else was ready: only that was taken
  OTHER ended following entries fence  another event than was expected is the next: only what else was ready was taken
  PAUSED ended following entries fence an operator has paused the subscription: as KEPT where the next event must be taken, and
                                       else as OK, but nothing was taken
  GONE ended following entries fence   the entry is not pending at the engine: nothing has changed
  FENCED                               the engine is not among the engines: nothing has changed

A handled event that does not stand first in the list (somebody has dropped it) is passed over. Where an earlier call, whose reply
got lost, has ended the delivery, this one goes on with what that has taken.
]]

local stream, engines, busy, lineages, wait, paused = KEYS[1], KEYS[2], KEYS[3], KEYS[4], KEYS[5], KEYS[6]
local engine, want, keep, peek, known = ARGV[1], tonumber(ARGV[2]), ARGV[3], tonumber(ARGV[4]), tonumber(ARGV[5])
local id, lane, size, expected = ARGV[6], ARGV[7], tonumber(ARGV[8]), ARGV[9]
local attempt, crashes, begun, subscription = ARGV[10], ARGV[11], ARGV[12], ARGV[13]

if redis.call('HEXISTS', engines, engine) == 0 then
  return {'FENCED'}
end

local held = redis.call('HMGET', busy, 'entries', 'bytes', 'fence', lane)
local entries, bytes, fence = tonumber(held[1] or 0), tonumber(held[2] or 0), tonumber(held[3] or 0)
local outstanding, ended, ready = tonumber(held[4] or 0), 0, 0
redis.call('LLEN', wait)
local first, is_paused = 14, redis.pcall('HEXISTS', paused, subscription) == 1
if not redis.call('XPENDING', stream, 'engines', id, id, 1, engine)[1] then
  local places, place = {[expected] = 0}, nil
  for number = first, #ARGV, 2 do
    places[ARGV[number]] = number
  end
  for _, pending in ipairs(redis.call('XPENDING', stream, 'engines', '-', '+', 1000, engine)) do
    local entry = redis.call('XRANGE', stream, pending[1], pending[1])[1]
    place = entry and places[entry[2][2]]
    if place == 0 then
      return {is_paused and 'PAUSED' or 'OK', 1, {}, {entry}, fence}
    elseif place then
      id, size, first = entry[1], tonumber(ARGV[place + 1]), place + 2
      break
    end
  end
  if not place then
    return {'GONE', 0, {}, {}, fence}
  end
end

local others = {}
if keep == '1' then
  if is_paused then
    return {'PAUSED', 0, {}, {}, fence}
  end
  local most = math.min(2, math.max(1, want))
  --- @include "queues/take_ready"
  if #taken == most then
    return {'KEPT', 0, {}, taken, fence}
  end
  others = taken
end

--- @include "queues/next_waiting"
local removed, removed_bytes, gone = 0, 0, {}
for number = first, #ARGV, 2 do
  local write_id = ARGV[number]
  if redis.call('LINDEX', wait, 6 * removed) == write_id then
    removed, removed_bytes = removed + 1, removed_bytes + tonumber(ARGV[number + 1])
    if string.byte(write_id) == 43 then
      gone[#gone + 1] = write_id
    end
  end
end
local next_id = redis.call('LINDEX', wait, 6 * removed)
if keep == '1' and next_id ~= expected then
  return {'OTHER', 0, {}, others, fence}
end
if removed > 0 then
  redis.call('LTRIM', wait, 6 * removed, -1)
  ended = removed
  if outstanding > 0 then -- else it is counted anew, without them
    outstanding, entries, bytes = math.max(1, outstanding - removed), entries - removed, bytes - removed_bytes
  end
  if gone[1] then
    redis.pcall('HDEL', lineages, unpack(gone))
  end
end
--- @include "queues/end_delivery"
--- @include "queues/store_counts"
if begun == '1' then
  fence = redis.call('HINCRBY', busy, 'fence', 1)
end
if attempt ~= '' and ready > 0 then
  local entry = redis.call('XREVRANGE', stream, '+', '-', 'COUNT', 1)[1]
  local fields = entry[2]
  if fields[2] == expected then
    fields[13], fields[14], fields[15], fields[16] = 'a', attempt, 'c', crashes
    redis.call('XADD', stream, '*', unpack(fields))
    redis.call('XDEL', stream, entry[1])
  end
end

if is_paused then
  return {'PAUSED', ended, {}, {}, fence}
end
local most = keep == '1' and 1 or want
--- @include "queues/take_ready" again
local own = ready > 0 and taken[1] and taken[#taken][2]
local is_taken = own and own[2] == next_id
if ready > 0 and not is_taken then
  redis.call('PUBLISH', stream, '')
end
for _, entry in ipairs(others) do
  taken[#taken + 1] = entry
end
if peek == 0 or not is_taken then
  return {'OK', ended, {}, taken, fence}
end
local at, scope, key = own[2] == expected and known - 1 or 0, own[4], own[6]
--- @include "queues/peek"
return {'OK', ended, following, taken, fence}
