-- Step: writes the new deadline of the key down, or takes the old one away, and wakes an engine up to be there in time.
-- Takes: scope, key, scope_deadlines, deadlines, ttl, deadline, new_deadline, earliest.

if new_deadline then
  if new_deadline ~= deadline then
    redis.call('ZADD', scope_deadlines, new_deadline, key)
  end
  if ttl ~= 'keep' and (not earliest or new_deadline < earliest) then
    redis.call('ZADD', deadlines, new_deadline, scope)
    if redis.call('ZRANGE', deadlines, 0, 0)[1] == scope then
      redis.call('PUBLISH', deadlines, '')
    end
  end
elseif deadline then
  redis.call('ZREM', scope_deadlines, key)
end
