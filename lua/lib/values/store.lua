-- Step: emits the events, stores `new`, keeps the index of scopes and the deadlines, records the outcome.
-- Takes: values, scopes, session, shadow, marks, scope_deadlines, deadlines, history, revisions, slot, sequence, scope, key, lane,
-- write_id, ttl, generation, most_changes, made_at, cause, lineage, lineages_at, filters_at, queue_count, old, new, failures,
-- expired, deadline, new_deadline, earliest.
--
-- What can fail comes first, and nothing is written before it has been looked at: the scopes here, the queues in
-- lib/queues/check_room.lua.

--- @include "values/check_log"
do
  local all_checked, queued = false, nil
  --- @include "queues/check_room"
  local is_new_scope = not old and redis.call('SISMEMBER', scopes, scope) == 0

  --- @include "queues/enqueue"
  if shadow then
    redis.call('HSET', shadow, key, new)
    redis.call('PUBLISH', marks, values)
  end
  redis.call('HSET', values, key, new)
  if shadow then
    redis.call('PUBLISH', marks, '')
  end
  if is_new_scope then
    redis.call('SADD', scopes, scope)
  end
  --- @include "values/log_change"
  --- @include "deadlines/store_deadline"
  --- @include "sessions/record"
end
