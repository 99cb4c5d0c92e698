-- Step: emits the events, removes the value and its deadline, keeps the index of scopes, records the outcome. Takes `old`, `new`
-- (false), `failures`, and what lib/deadlines/deadline.lua gives.
--
-- The value goes first: when memory is full, Redis refuses a script's first write if it could need some, and none after it.
-- Everything that could fail for another reason is looked at before.

local all_checked = true
--- @include "queues/room"
local scope_ends = (old or expired) and redis.call('HLEN', KEYS[1]) == 1 and redis.call('SCARD', KEYS[2])

if shadow then
  redis.call('HDEL', shadow, ARGV[6])
  redis.call('PUBLISH', marks, KEYS[1])
end
redis.call('HDEL', KEYS[1], ARGV[6])
if shadow then
  redis.call('PUBLISH', marks, '')
  scope_ends = scope_ends and redis.call('EXISTS', shadow) == 0 -- else what others have removed is still to be noticed
end
--- @include "queues/enqueue"
if scope_ends then
  redis.call('SREM', KEYS[2], ARGV[5])
  if deadlines then
    redis.call('ZADD', index, 'XX', 0, ARGV[5]) -- to be looked at soon: its deadlines are to go, too
  end
end
--- @include "deadlines/plan"
--- @include "sessions/record"
