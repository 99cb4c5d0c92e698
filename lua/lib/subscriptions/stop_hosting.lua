--- @include "fleet/time"

-- Ends the hosting of a queue at an engine. Answers 1 where no other engine hosts it: then its retention begins. Else 0.
local function stop_hosting(engine, queue, subscription, orphans, clock, clock_copy)
  local now = fleet_time(clock, clock_copy)
  local orphaned = redis.call('HDEL', subscription, 'at:' .. engine)
  if orphaned == 1 then
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
  return orphaned
end
