-- Step: makes the next event of a lane ready, whose first is gone. Takes and lowers `outstanding`; takes `lane`, `wait`; counts in
-- `ready`; what should wait and is not there is lost, and lowers `entries` and `bytes`. Queues are KEYS[1] stream, KEYS[3] busy.

outstanding = outstanding - 1
local event = outstanding > 0 and redis.call('LPOP', wait, 6)
if event and event[6] then
  redis.call('XADD', KEYS[1], '*', 'w', event[1], 's', event[2], 'k', event[3], 't', event[4], 'o', event[5], 'n', event[6])
  redis.call('HSET', KEYS[3], lane, outstanding)
  ready = ready + 1
else
  redis.call('HDEL', KEYS[3], lane)
  if outstanding > 0 then
    redis.call('HINCRBY', KEYS[3], 'lost', outstanding)
    bytes = math.floor(bytes * math.max(0, 1 - outstanding / math.max(1, entries)))
    entries = entries - outstanding
  end
end
