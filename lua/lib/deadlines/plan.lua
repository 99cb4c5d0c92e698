-- Step: writes the new deadline of the key down, or takes the old one away, and rings for an engine to be there in time. Takes
-- `deadlines`, `index`, `deadline`, `new_deadline`, `bound`.

if new_deadline then
  if new_deadline ~= deadline then
    redis.call('ZADD', deadlines, new_deadline, ARGV[6])
  end
  if ttl ~= 'keep' and (not bound or new_deadline < bound) then
    redis.call('ZADD', index, new_deadline, ARGV[5])
    if redis.call('ZRANGE', index, 0, 0)[1] == ARGV[5] then
      redis.call('PUBLISH', index, '')
    end
  end
elseif deadline then
  redis.call('ZREM', deadlines, ARGV[6])
end
