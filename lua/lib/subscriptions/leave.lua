-- Step: `engine` hosts `queue` no more. Takes the keys `subscription`, `orphans` and `clock`, too; gives `orphaned`, 1 where that was the
-- last.

--- @include "fleet/now"
local was_hosted = redis.call('HDEL', subscription, 'at:' .. engine)
local orphaned = was_hosted
if was_hosted == 1 then
  for _, field in ipairs(redis.call('HKEYS', subscription)) do
    if string.sub(field, 1, 3) == 'at:' then
      orphaned = 0
    end
  end
  local retention = orphaned == 1 and redis.call('HGET', subscription, 'retention')
  if retention then
    redis.call('ZADD', orphans, now + retention, queue)
  end
end
