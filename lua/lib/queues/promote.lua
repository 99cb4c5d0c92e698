-- Step: makes the next event of a lane ready, whose first is gone. `outstanding` counts the events of the lane, that first one
-- included, and then what is left of them; `entries` and `bytes` count those of the queue without it, and `ready` how many events
-- were made ready. What should wait and is not there is lost. A lane of which nothing is found among many items stays counted:
-- repair/resume_lanes.lua goes on with it.
-- Takes: stream, busy, wait, lineages, lane. Changes: outstanding, entries, bytes, ready.

--- @include "queues/next_waiting"
do
  outstanding = outstanding - 1
  local event, skipped
  if outstanding > 0 then
    event, skipped = next_waiting(wait, lane)
  end
  local left = event and outstanding or 0
  if skipped and (skipped > 0 or not event) then
    local items = redis.call('LLEN', wait)
    left = (event and 1 or 0) + math.floor(items / 6)
    local missing = outstanding - left
    if missing > 0 then
      redis.call('HINCRBY', busy, 'lost', missing)
      bytes = math.floor(bytes * math.max(0, 1 - missing / math.max(1, entries)))
    end
    entries = entries - missing
  end
  if left > 0 then
    redis.call('HSET', busy, lane, left)
  else
    redis.call('HDEL', busy, lane)
  end
  if event then
    local lineage = string.byte(event[1]) == 43 and redis.pcall('HGET', lineages, event[1])
    if type(lineage) == 'string' then
      redis.call('HDEL', lineages, event[1])
      redis.call('XADD', stream, '*', 'w', event[1], 's', event[2], 'k', event[3], 't', event[4], 'o', event[5], 'n', event[6],
        'a', 1, 'c', 0, 'x', lineage)
    else
      redis.call('XADD', stream, '*', 'w', event[1], 's', event[2], 'k', event[3], 't', event[4], 'o', event[5], 'n', event[6])
    end
    ready = ready + 1
  end
  outstanding = left
end
