--[[
Has lanes of a queue go on whose event in the stream, or some of those behind it, somebody has removed.

A lane that was not met when the whole stream was read, page by page, up to an id, and is not met in what has come since, has no
event in the stream: what was added meanwhile has higher ids, and what is there now was there all the time.

KEYS  1 stream (stream)   2 busy (hash)   then of each lane: wait (list)
ARGV  1 unmet_until: id up to which the lanes were not met in the stream, '' where they were, '-' where only the type of their lists
      is to be looked at   2 most: entries behind it
      3 most_bytes: of those, and of what is made ready   then the lanes

Reply, an array that begins with a word:
  MORE                       there is more behind the id, or, for lanes that were met, lanes and events are not even:
                             nothing changed
  OK lost ready wrong done   how many events are gone; of how many lanes the next one was made ready; the numbers of the lanes
                             (from 1) whose list is of another type: they have not changed; how many lanes were looked at: where
                             there are more, call again with those
]]

local stream, busy = KEYS[1], KEYS[2]
local unmet_until, most, most_bytes = ARGV[1], tonumber(ARGV[2]), tonumber(ARGV[3])

--- @include "queues/next_waiting"
local held = redis.call('HMGET', busy, 'entries', 'bytes', 'fence', 'doubt', 'lost')
local are_missing, seen, some_are_long = unmet_until ~= '', {}, false
if unmet_until == '-' then
  local wrong = {}
  for number = 1, #KEYS - 2 do
    if type(redis.pcall('LLEN', KEYS[2 + number])) == 'table' then
      wrong[#wrong + 1] = number
    end
  end
  return {'OK', 0, 0, wrong, #KEYS - 2}
elseif are_missing then
  local behind, bytes, left = '(' .. unmet_until, 0, most
  while true do
    local entry = redis.call('XRANGE', stream, behind, '+', 'COUNT', 1)[1] -- one at a time, see repair/requeue_entries.lua
    if not entry then
      break
    end
    bytes, left = bytes + #(entry[2][10] or '') + #(entry[2][12] or ''), left - 1
    if left < 0 or bytes > most_bytes then
      return {'MORE'}
    end
    behind = '(' .. entry[1]
    local scope, key = entry[2][4] or '', entry[2][6] or ''
    local name = #scope .. ':' .. scope .. key
    if #name <= 64 then
      seen[name] = true
    else
      some_are_long = true -- which of the lanes that begin with `~` these are is not known here
    end
  end
else
  local lanes = redis.call('HLEN', busy)
  for at = 1, 5 do
    lanes = held[at] and lanes - 1 or lanes
  end
  if lanes ~= redis.call('XLEN', stream) or held[4] then
    return {'MORE'}
  end
end

local lost, ready, wrong, change, made, done = 0, 0, {}, 0, 0, 0
for number = 1, #KEYS - 2 do
  if made >= most_bytes then
    break
  end
  done = number
  local lane, wait = ARGV[3 + number], KEYS[2 + number]
  local counted = tonumber(redis.call('HGET', busy, lane) or 0)
  local items = redis.pcall('LLEN', wait)
  if type(items) == 'table' then
    wrong[#wrong + 1] = number
  elseif not seen[lane] and not (some_are_long and string.byte(lane) == 126) and (are_missing or counted > 0) then
    local event = are_missing and next_waiting(wait, lane)
    local outstanding = (event or not are_missing) and 1 or 0
    outstanding = outstanding + math.floor(redis.call('LLEN', wait) / 6)
    if event then
      redis.call('XADD', stream, '*', 'w', event[1], 's', event[2], 'k', event[3], 't', event[4], 'o', event[5], 'n', event[6])
      ready, made = ready + 1, made + #event[5] + #event[6]
    end
    if outstanding == 0 then
      redis.call('HDEL', busy, lane)
    elseif outstanding ~= counted then
      redis.call('HSET', busy, lane, outstanding)
    end
    change = change + outstanding - counted
    if counted > outstanding then
      lost = lost + counted - outstanding
    end
  end
end

if change ~= 0 then
  local entries, bytes = tonumber(held[1] or 0), tonumber(held[2] or 0)
  local now_held = math.max(0, entries + change)
  if now_held == 0 then
    redis.call('HDEL', busy, 'entries', 'bytes')
  else
    bytes = math.floor(bytes * now_held / math.max(1, entries)) -- what the lost ones had is not known: as much as the others
    redis.call('HSET', busy, 'entries', now_held, 'bytes', bytes)
  end
end
if ready > 0 then
  redis.call('PUBLISH', stream, '')
end
return {'OK', held[4] and 0 or lost, ready, wrong, done}
