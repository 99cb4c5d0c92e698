--[[
Stores a value, atomically with the events of the write.

KEYS  1 values (hash)   2 scopes (set)   3 session (hash)   4 routes_version (string)   5 routes_log (stream)
      then of each queue that wants the event: stream (stream), busy (hash), wait (list of the lane)
      then, where foreign writes are watched, or the scope has deadlines or a change log: shadow (hash), marks (channel),
      scope_deadlines (sorted set), deadlines (sorted set), clock (hash); routes_version in the place of what is not there
      then, where it has a change log: history (stream), revisions (hash)
      then, where the write's id begins with `+`, of each queue: lineages (hash)
ARGV  1 epoch   2 slot   3 sequence   4 known_version: of the routes   5 scope   6 key
      then, where there are queues: lane, write_id, and of each queue: most_entries, most_bytes
      then, where the write's id begins with `+`: lineage, text of what the write was made within
      then, where the scope has deadlines: ttl, the milliseconds until the new one, '' for none; behind a blank, where the caller
      has it, the time of the fleet
      then, where it has a change log: generation, which time it is switched on; most_changes, which it is to keep at least;
      made_at, milliseconds since 1970
      then, where there are conditions: `if`, number of words, and of each: test, number of names, the names (the first as the start
      of its line: LF, the name, a colon), what is compared with (lib/values/judge.lua)
      then, where queues want only some events or a part of each: `want`, how many words follow, and these (lib/queues/narrow.lua)
      then new, the value in stored form
      then, where there are conditions and the text was checked: `f`, the text, its stored form ('' when it is the same)

Reply, an array that begins with a word:
  OK old revision             stored; old is the text that was there, nil for a new key, and for a value whose deadline was over:
                              its event has come first (foreign text is not checked); revision only where there is a change log
  AGAIN old failures          had been applied by an earlier call of this slot and number; nothing changed now. Behind an `@` at the
                              end of failures its revision, where there is a change log
  FORGOTTEN                   the same, but old was too large to be recorded
  FENCED                      another epoch, or a slot used since: nothing changed; the caller has given this call up
  LOST                        the session is gone: whether this call has been applied is unknown; nothing changed now
  STALE version changes       the routes have changed: nothing changed; changes are entries of the routes log, 1000 at most
  UNCAPTURED                  another program has changed the value, and no event tells of that yet: nothing changed; call
                              foreign/capture.lua for it, and this again
  UNMET condition text        the condition of this index (from 0) does not hold for the text, nil for none, and nothing changed, by
                              this call or an earlier one; a fourth item says that the text was too large to be recorded
  FOREIGN text                there are conditions, and the stored text is not known to be in stored form, or its etag cannot be
                              worked out here: nothing changed. Check it, and call again with what has been found out
  FULL queue bound size       the queue of this number (from 0) has no room for an event of this size: nothing changed

Around its write to the values it publishes marks: the key of the values before, and nothing after. What Redis tells of this key
otherwise is another program's doing.
]]

--- @include "values/name_arguments"
--- @include "sessions/recognise"
--- @include "fleet/check_routes"

local old, new, failures = redis.call('HGET', values, key), ARGV[own], ''
--- @include "foreign/check_captured"
--- @include "deadlines/apply_deadline"
--- @include "values/check_log"
if conditions_at then
  --- @include "values/check_form"
  --- @include "values/check_conditions"
end
--- @include "values/store"
if revision then
  return {'OK', old, revision}
end
return {'OK', old}
