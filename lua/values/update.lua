--[[
Applies a list of update ops to a value, atomically with the events of the write. An op that fails is skipped and reported.

KEYS  1 values of the scope (hash)   2 scopes (set)   3 session (hash)   4 routes version (string)   5 routes log (stream)
      then of each queue that wants the event: stream, busy (hash), wait (list of the lane)
      then, where foreign writes are watched, or the scope has deadlines: shadow of the scope (hash), channel of the marks, deadlines
      of its keys (sorted set), the earliest of each scope (sorted set), clock (hash); the routes version in the place of what is not
      there
ARGV  1 epoch   2 slot   3 sequence number   4 routes version   5 scope   6 key
      then, where there are queues: lane, write id, and of each queue: most entries, most bytes
      then, where the scope has deadlines: milliseconds until the new one, `keep` for the one there was
      then most bytes of the result (compact), and, where a foreign text was checked: `f`   the text   its stored form ('' when it
      is the same)
      then of each op: kind   number of names   the names
            set `s`, append `a`: value     increment `i`: signed operand     remove `r`: nothing
            merge `m`: number of members, then name and value of each
      Values are compact JSON in normal form, that of a `set` of the root in stored form. Names are JSON strings in normal form;
      that of a member of the root is given as the start of its line: LF, the name, a colon.

Reply, an array that begins with a word:
  OK old new failures         stored; old is as of values/set.lua; failures are words, three of each op that was skipped:
                              its position in the arguments (from 0), the failure, the JSON type that was in the way
  FOREIGN text                the stored text is not known to be in stored form: nothing changed. Check it, and call again
                              with the text and its stored form, which takes its place if the text is still the same
  TOO_LARGE size              the result would have this many bytes: nothing changed
  AGAIN old failures          had been applied by an earlier call of this slot and number; nothing changed now
                              (new follows from old and the ops)
  FORGOTTEN                   the same, but old was too large to be recorded
  FENCED                      another epoch, or a slot used since: nothing changed, nobody waits for this call
  LOST                        the session is gone: whether this call has been applied is unknown; nothing changed now
  STALE version changes       the routes have changed: nothing changed; changes are entries of the routes log, 1000 at most
  UNSEEN                      another program has changed the value, and nobody has noticed: nothing changed; call foreign/capture.lua
                              for it, and this again
  FULL queue bound size       the queue of this number (from 0) has no room for an event of this size: nothing changed
]]

--- @include "sessions/session"
--- @include "fleet/routes"
--- @include "values/arguments"

local old = redis.call('HGET', KEYS[1], ARGV[6])
--- @include "foreign/captured"
--- @include "deadlines/deadline"
--- @include "values/checked"
--- @include "values/ops"

local new, limit = document, tonumber(ARGV[own])
if #new > limit then
  --- @include "values/compact_size"
  if compact_size > limit then
    return {'TOO_LARGE', compact_size}
  end
end
--- @include "values/store"
return {'OK', old, new, failures}
