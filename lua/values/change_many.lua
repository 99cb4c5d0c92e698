--[[
Makes several changes one after the other, each on its own: sets, deletes and updates that have no event, no deadline, no
condition and no change log. An engine sends those together that were made in one turn of its event loop. What is the same for all
of them, the check of the session and of the routes and the record of outcomes, is done once: that halves what a change costs.

KEYS  1 scopes (set)   2 session (hash)   3 routes_version (string)   4 routes_log (stream)
      then of each scope: values (hash)
ARGV  1 epoch   2 known_version: of the routes   3 count: how many changes
      then of each scope: its name
      then of each change: kind (`s` set, `d` delete, `u` update), slot, sequence, place: which scope it is of, from 1, key,
      words: how many follow, and these: what values/set.lua, values/delete.lua or values/update.lua have as their own arguments

Reply, an array: of each change an array that begins with a word, which says what it does of a call of its own (values/set.lua,
values/update.lua), or that Redis has refused this one change
  OK old                      of a set or delete
  OK old new failures         of an update
  AGAIN old failures
  FORGOTTEN
  FENCED
  UNMET condition text
  FOREIGN text
  TOO_LARGE size
  ERROR text                  what Redis has said: nothing was changed by this one
or one for all of them, since nothing was changed
  FENCED                      another epoch
  LOST                        the session is gone
  STALE version changes       the routes have changed

What fails in a change does so before it writes anything. So nothing can fail between the first write and the record, which tells of
all that was made.
]]

local scopes, session, routes_version, routes_log = KEYS[1], KEYS[2], KEYS[3], KEYS[4]
local epoch, known_version, count = ARGV[1], ARGV[2], tonumber(ARGV[3])
local first = #KEYS -- of the first change in ARGV: behind three arguments and the scopes

local slots, at = {}, first
for number = 1, count do
  slots[number] = ARGV[at + 1]
  at = at + 6 + ARGV[at + 5]
end
local held = redis.call('HMGET', session, 'epoch', unpack(slots))
if held[1] ~= epoch then
  return {held[1] and 'FENCED' or 'LOST'}
end
--- @include "fleet/check_routes"

local record = {}

-- Makes one change. Gives its reply.
local function change(kind, slot, sequence, recorded, values, scope, key, own, ops_last)
  --- @include "sessions/recognise_slot"
  local old, new, skipped = redis.call('HGET', values, key), false, ''
  if kind == 's' then
    new = ARGV[own]
  elseif kind == 'u' then
    --- @include "values/check_form"
    --- @include "values/apply_ops"
    local most_bytes = tonumber(ARGV[own])
    new, skipped = document, failures
    --- @include "values/check_size"
  end
  if new then
    local is_new_scope = not old and redis.call('SISMEMBER', scopes, scope) == 0
    redis.call('HSET', values, key, new)
    if is_new_scope then
      redis.call('SADD', scopes, scope)
    end
  else
    local scope_ends = old and redis.call('HLEN', values) == 1 and redis.call('SCARD', scopes)
    redis.call('HDEL', values, key)
    if scope_ends then
      redis.call('SREM', scopes, scope)
    end
  end
  local n = #record
  record[n + 1] = slot
  if not old then
    record[n + 2] = sequence .. '-' .. skipped
  elseif #old > 1048576 then
    record[n + 2] = sequence .. '!' .. skipped
  else
    record[n + 2], record[n + 3], record[n + 4] = sequence .. '+' .. skipped, slot .. ':old', old
  end
  if kind == 'u' then
    return {'OK', old, new, skipped}
  end
  return {'OK', old}
end

-- What is replied of a change, of what `pcall` says of it.
local function reply_of(is_made, reply)
  if is_made then
    return reply
  end
  return {'ERROR', type(reply) == 'table' and reply.err or reply}
end

local replies = {}
at = first
for number = 1, count do
  local place, words = tonumber(ARGV[at + 3]), ARGV[at + 5]
  replies[number] = reply_of(pcall(change, ARGV[at], ARGV[at + 1], ARGV[at + 2], held[number + 1], KEYS[4 + place],
    ARGV[3 + place], ARGV[at + 4], at + 6, at + 5 + words))
  at = at + 6 + words
end
if record[1] then
  redis.call('HSET', session, unpack(record))
end
return replies
