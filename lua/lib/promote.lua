-- Step: makes the next event of a lane ready, whose first is gone. Takes and lowers `outstanding`; takes `lane`, `wait`; counts in
-- `ready`. Queues are KEYS[1] stream, KEYS[3] busy.

outstanding = outstanding - 1
local event = outstanding > 0 and redis.call('LPOP', wait, 6)
if event and event[6] then
  redis.call('XADD', KEYS[1], '*', 'w', event[1], 's', event[2], 'k', event[3], 't', event[4], 'o', event[5], 'n', event[6])
  redis.call('HSET', KEYS[3], lane, outstanding)
  ready = ready + 1
else
  redis.call('HDEL', KEYS[3], lane)
end
