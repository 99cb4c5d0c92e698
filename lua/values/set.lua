--[[
Stores a value, atomically with the events of the write.

KEYS  1 values of the scope (hash)   2 scopes (set)   3 session (hash)   4 routes version (string)   5 routes log (stream)
      then of each queue that wants the event: stream, busy (hash), wait (list of the lane)
      then, where foreign writes are watched, or the scope has deadlines: shadow of the scope (hash), channel of the marks, deadlines
      of its keys (sorted set), the earliest of each scope (sorted set), clock (hash); the routes version in the place of what is not
      there
ARGV  1 epoch   2 slot   3 sequence number   4 routes version   5 scope   6 key
      then, where there are queues: lane, write id, and of each queue: most entries, most bytes
      then, where the scope has deadlines: milliseconds until the new one, '' for none
      then the value, in stored form

Reply, an array that begins with a word:
  OK old                      stored; old is the text that was there, nil for a new key, and for a value whose deadline was over:
                              its event has come first (foreign text is not checked)
  AGAIN old failures          had been applied by an earlier call of this slot and number; nothing changed now
  FORGOTTEN                   the same, but old was too large to be recorded
  FENCED                      another epoch, or a slot used since: nothing changed, nobody waits for this call
  LOST                        the session is gone: whether this call has been applied is unknown; nothing changed now
  STALE version changes       the routes have changed: nothing changed; changes are entries of the routes log, 1000 at most
  UNSEEN                      another program has changed the value, and nobody has noticed: nothing changed; call foreign/capture.lua
                              for it, and this again
  FULL queue bound size       the queue of this number (from 0) has no room for an event of this size: nothing changed

Around its write to the values it publishes marks: the key of the values before, and nothing after. What Redis tells of this key
otherwise is another program's doing.
]]

--- @include "sessions/session"
--- @include "fleet/routes"
--- @include "values/arguments"

local old, new, failures = redis.call('HGET', KEYS[1], ARGV[6]), ARGV[own], ''
--- @include "foreign/captured"
--- @include "deadlines/deadline"
--- @include "values/store"
return {'OK', old}
