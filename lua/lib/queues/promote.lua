-- Step: makes the next event of a lane ready, whose first is gone. Takes and lowers `outstanding`; takes `lane`, `wait`, and
-- `next_waiting`; counts in `ready`; what should wait and is not there is lost, and lowers `entries` and `bytes`. Queues are KEYS[1]
-- stream, KEYS[3] busy. A lane of which nothing is found among many items stays counted: repair/resume_lanes.lua goes on with it.

outstanding = outstanding - 1
local event, skipped
if outstanding > 0 then
  event, skipped = next_waiting(wait, lane)
end
local there = event and outstanding or 0
if skipped and (skipped > 0 or not event) then
  local items = redis.call('LLEN', wait)
  there = (event and 1 or 0) + math.floor(items / 6)
  local missing = outstanding - there
  if missing > 0 then
    redis.call('HINCRBY', KEYS[3], 'lost', missing)
    bytes = math.floor(bytes * math.max(0, 1 - missing / math.max(1, entries)))
  end
  entries = entries - missing
end
if there > 0 then
  redis.call('HSET', KEYS[3], lane, there)
else
  redis.call('HDEL', KEYS[3], lane)
end
if event then
  redis.call('XADD', KEYS[1], '*', 'w', event[1], 's', event[2], 'k', event[3], 't', event[4], 'o', event[5], 'n', event[6])
  ready = ready + 1
end
outstanding = there
