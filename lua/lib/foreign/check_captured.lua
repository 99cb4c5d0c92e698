-- Step: answers a call that would write over what another program has done, and what no event tells of yet. Goes on with any other.
-- Takes: shadow, key, old.

if shadow and redis.call('HGET', shadow, key) ~= old then
  return {'UNCAPTURED'}
end
