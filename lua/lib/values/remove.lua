-- Step: emits the events, removes the value and its deadline, keeps the index of scopes, records the outcome. `new` is false.
-- Takes: values, scopes, session, shadow, marks, scope_deadlines, deadlines, history, revisions, slot, sequence, scope, key, lane,
-- write_id, ttl, generation, most_changes, made_at, cause, lineage, lineages_at, filters_at, queue_count, old, new, failures,
-- expired, deadline, new_deadline, earliest.
--
-- The value goes first: when memory is full, Redis refuses a script's first write if it could need some, and none after it.
-- Everything that could fail for another reason is looked at before.

--- @include "values/check_log"
do
  local all_checked, queued = true, nil
  --- @include "queues/check_room"
  local scope_ends = (old or expired) and redis.call('HLEN', values) == 1 and redis.call('SCARD', scopes)

  if shadow then
    redis.call('HDEL', shadow, key)
    redis.call('PUBLISH', marks, values)
  end
  redis.call('HDEL', values, key)
  if shadow then
    redis.call('PUBLISH', marks, '')
    scope_ends = scope_ends and redis.call('EXISTS', shadow) == 0 -- else what others have removed is still to be captured
  end
  --- @include "queues/enqueue"
  --- @include "values/log_change"
  if scope_ends then
    redis.call('SREM', scopes, scope)
    if scope_deadlines then
      redis.call('ZADD', deadlines, 'XX', 0, scope) -- to be looked at soon: its deadlines are to go, too
    end
  end
  --- @include "deadlines/store_deadline"
  --- @include "sessions/record"
end
