-- Step: emits the events, stores `new`, keeps the index of scopes and the deadlines, records the outcome. Takes `old`, `new`,
-- `failures`, and what lib/deadlines/deadline.lua gives.
--
-- What can fail comes first, and nothing is written before it has been looked at: the scopes here, the queues in lib/queues/room.lua.

local all_checked = false
--- @include "queues/room"
local new_scope = not old and redis.call('SISMEMBER', KEYS[2], ARGV[5]) == 0

--- @include "queues/enqueue"
if shadow then
  redis.call('HSET', shadow, ARGV[6], new)
  redis.call('PUBLISH', marks, KEYS[1])
end
redis.call('HSET', KEYS[1], ARGV[6], new)
if shadow then
  redis.call('PUBLISH', marks, '')
end
if new_scope then
  redis.call('SADD', KEYS[2], ARGV[5])
end
--- @include "deadlines/plan"
--- @include "sessions/record"
