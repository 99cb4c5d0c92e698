--[[
Carries out several changes of one scope, all or none, atomically with their events, which come in the order of the steps. A step
finds what those before it have left.

KEYS and ARGV are those of values/set.lua. In KEYS the queues of a step stand behind those of the one before, as do the lineages.
      ARGV are 1 to 5, then width: how many keys a queue has (3, or 4 with lineages), and of each step: kind, its queues, how many
      words follow, and these: what a call of its own would have from the key on, as values/set.lua (kind `s`), values/update.lua
      (`u`) or values/delete.lua (`d`) has it.

Reply, an array that begins with a word, as that of values/set.lua, but
  OK then of each step        old of a set or delete; of an update: old, new, failures, as of values/update.lua
  AGAIN lengths texts         had been applied by an earlier call of this slot and number; nothing changed now. What the first step
                              of each key had found, in their order: one text behind the other, and their lengths, `-` for none
  FOREIGN then pairs          of each step whose stored text is not known to be in stored form, or whose etag cannot be worked out
                              here: its number, the text
  UNMET condition text        the first word is the condition's index and the step's number
  TOO_MUCH size               what the steps find and leave has so many bytes or more (compact): nothing changed
  OP_FAILED failures step     as of values/update.lua, and the step's number (from 0)
  TOO_LARGE, FULL, UNCAPTURED as of values/update.lua and values/set.lua; the last word is the step's number (from 0)

First all steps are carried out over what those before them would leave (`texts`, `ends`, `queued`), and nothing is written. What
can fail is looked at there. Then all is written.
]]

local values, scopes, session, routes_version, routes_log = KEYS[1], KEYS[2], KEYS[3], KEYS[4], KEYS[5]
local epoch, slot, sequence, known_version, scope, width = ARGV[1], ARGV[2], ARGV[3], ARGV[4], ARGV[5], ARGV[6]

do
  local held = redis.call('HMGET', session, 'epoch', slot)
  local lengths = held[1] == epoch and held[2] and string.match(held[2], '^' .. sequence .. '!t(.*)$')
  if lengths then
    return {'AGAIN', lengths, string.find(lengths, '%d') and redis.call('HGET', session, slot .. ':old') or ''}
  end
end
--- @include "sessions/recognise"
--- @include "fleet/check_routes"
redis.call('SCARD', scopes)

-- Key -> text, and key -> deadline, after the steps so far; false for none. `record` is what was at the keys before them, in order.
local texts, ends, record = {}, {}, {}
-- Busy key -> what it holds after the steps so far: lane -> outstanding, entries, bytes, doubt.
local queued = {}
local now, stands, known
local raw_bytes, stores, creates, removes = 0, false, false, false
local both, watched, channel, scope_ends_at = {}, false, nil, false
local logged -- the revision of the change log, once a step has been logged
local latest, numbers = false, {} -- what it will be after the steps so far, and key -> revision of what they leave, false for none

--- @include "values/compact_size"
-- Carries out a step, whose keys and arguments are those of a call of its own. Answers why not, or nil, what writes it down, and
-- what is replied of it.
local function prepare(KEYS, ARGV, kind)
  --- @include "values/name_arguments"
  local old, deadline, expired, new, skipped = texts[key], ends[key], false, false, ''
  local is_first = old == nil
  if is_first then
    old, deadline = redis.call('HGET', values, key), false
    --- @include "foreign/check_captured"
    if scope_deadlines then
      deadline = tonumber(redis.call('ZSCORE', scope_deadlines, key) or nil) or false
    end
  end

  local new_deadline = false
  if scope_deadlines then
    local lifetime = tonumber(string.match(ttl, '^%d+') or nil)
    if (deadline or lifetime) and not now then
      --- @include "fleet/time"
      local time = {fleet_time(clock)}
      now, stands, known = time[1], time[2], time[4]
    end
    if is_first and deadline and known and deadline <= now then
      expired, old = old, false
    end
    if lifetime then
      redis.call('ZSCORE', deadlines, scope)
      local told = stands and tonumber(string.match(ttl, ' (%d+)$') or now) or now
      new_deadline = lifetime + (known and math.max(now, told) or told)
    elseif ttl == 'keep' and old then
      new_deadline = deadline
    end
  end

  --- @include "values/check_log"
  if not is_first then
    key_revision = numbers[key]
  end

  if kind == 's' then
    new = ARGV[own]
  end
  if kind == 'u' or conditions_at then
    local left = not is_first and old -- by a step, and so in stored form for certain
    old = is_first and old
    --- @include "values/check_form"
    old = old or left
    if conditions_at then
      --- @include "values/judge"
      local of_value = old and key_revision and string.format('%d', key_revision) or nil
      local failing, needs_etag = failing_condition(old, ARGV, conditions_at, conditions_last, of_value)
      if needs_etag then
        return {'FOREIGN', old}
      elseif failing then
        return {'UNMET', string.format('%d', failing), old}
      end
    end
    if kind == 'u' then
      local strict = ARGV[ops_at] == 'x'
      if strict then
        ops_at = ops_at + 2
      end
      local ops_last = #ARGV
      --- @include "values/apply_ops"
      if strict and (failures ~= '' or ARGV[ops_at - 1] == '1') then
        return {'OP_FAILED', failures}
      end
      new, skipped = document, failures
      local most_bytes = tonumber(ARGV[own])
      --- @include "values/check_size"
    end
  end

  local all_checked = true
  --- @include "queues/check_room"
  for queue = 1, queue_count do
    local busy, count = KEYS[4 + 3 * queue], counts[queue]
    if count then
      local events, held = count[5] or expired and 2 or 1, queued[busy] or {}
      held[lane], held.entries, held.bytes = count[1] + events, count[2] + events, count[3] + (count[6] or size)
      held.doubt = count[4]
      if count[7] then
        held.tails = held.tails or {}
        held.tails[lane] = count[7]
      end
      queued[busy] = held
    end
  end
  if is_first then
    record[#record + 1] = old
  end
  texts[key], ends[key] = new, new_deadline
  if revision then
    latest = (latest or revision) + (expired and 2 or 1)
    numbers[key] = new and latest
  end
  stores, creates = stores or new, creates or new and not old
  removes = removes or (old or expired) and not new
  raw_bytes = raw_bytes + (old and #old or 0) + (new and #new or 0)
  both[#both + 1], both[#both + 2] = old or '', new or ''
  watched, channel, scope_ends_at = shadow, marks, scope_deadlines and deadlines

  local function write()
    if not new then
      if shadow then
        redis.call('HDEL', shadow, key)
      end
      redis.call('HDEL', values, key)
    end
    --- @include "queues/enqueue"
    if new then
      if shadow then
        redis.call('HSET', shadow, key, new)
      end
      redis.call('HSET', values, key, new)
    end
    if logged then
      revision, begins_anew = logged, false
    end
    --- @include "values/log_change"
    logged = revision
    local earliest = new_deadline and tonumber(redis.call('ZSCORE', deadlines, scope) or nil)
    --- @include "deadlines/store_deadline"
  end
  return nil, write, kind == 'u' and {old, new, skipped} or old
end

local queues_in_all, at = 0, 7
while ARGV[at] do
  queues_in_all, at = queues_in_all + ARGV[at + 1], at + 3 + ARGV[at + 2]
end
local last_shared = #KEYS - (width == '4' and queues_in_all or 0)
local writes, reply, foreign, queue, number = {}, {'OK'}, {'FOREIGN'}, 0, 0
at = 7
while ARGV[at] do
  local kind, queues, words = ARGV[at], tonumber(ARGV[at + 1]), tonumber(ARGV[at + 2])
  local keys, arguments = {values, scopes, session, routes_version, routes_log}, {epoch, slot, sequence, known_version, scope}
  for place = 6 + 3 * queue, 5 + 3 * (queue + queues) do
    keys[#keys + 1] = KEYS[place]
  end
  for place = 6 + 3 * queues_in_all, last_shared do
    keys[#keys + 1] = KEYS[place]
  end
  for place = last_shared + queue + 1, width == '4' and last_shared + queue + queues or 0 do
    keys[#keys + 1] = KEYS[place]
  end
  for place = at + 3, at + 2 + words do
    arguments[#arguments + 1] = ARGV[place]
  end
  local refusal, write, result = prepare(keys, arguments, kind)
  if refusal and refusal[1] == 'FOREIGN' then
    foreign[#foreign + 1], foreign[#foreign + 2] = number, refusal[2]
  elseif foreign[2] then -- the others are only looked at for what is foreign, too
    refusal = nil
  elseif refusal and refusal[1] == 'UNMET' then
    local unmet, old = refusal[2] .. ' ' .. number, refusal[3]
    --- @include "sessions/record_unmet"
    return {'UNMET', unmet, old}
  elseif refusal then
    refusal[#refusal + 1] = number
    return refusal
  elseif raw_bytes > 16777216 then
    local size = 0
    for _, text in ipairs(both) do
      size = size + compact_size(text)
    end
    if size > 16777216 then
      return {'TOO_MUCH', size}
    end
  end
  writes[#writes + 1], reply[#reply + 1] = write, result or false
  queue, at, number = queue + queues, at + 3 + words, number + 1
end
if foreign[2] then
  return foreign
end

local lengths, kept, bytes = {}, {}, 0
for place, old in ipairs(record) do
  lengths[place] = old and #old or '-'
  if old then
    kept[#kept + 1], bytes = old, bytes + #old
  end
end
local function keep_record()
  if bytes > 1048576 then
    redis.call('HSET', session, slot, sequence .. '!')
  elseif bytes > 0 then
    redis.call('HSET', session, slot, sequence .. '!t' .. table.concat(lengths, ' '), slot .. ':old', table.concat(kept))
  else
    redis.call('HSET', session, slot, sequence .. '!t' .. table.concat(lengths, ' '))
  end
end

-- When memory is full, Redis refuses a script's first write if it could need some, and none after it.
if stores then
  keep_record()
end
if watched then
  redis.call('PUBLISH', channel, values)
end
for _, write in ipairs(writes) do
  write()
end
if watched then
  redis.call('PUBLISH', channel, '')
end
if redis.call('EXISTS', values) == 1 then
  if creates and redis.call('SISMEMBER', scopes, scope) == 0 then
    redis.call('SADD', scopes, scope)
  end
elseif removes and not (watched and redis.call('EXISTS', watched) == 1) then
  redis.call('SREM', scopes, scope)
  if scope_ends_at then
    redis.call('ZADD', scope_ends_at, 'XX', 0, scope) -- to be looked at soon: its deadlines are to go, too
  end
end
if not stores then
  keep_record()
end
return reply
