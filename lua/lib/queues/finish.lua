-- Step: ends the pending delivery `id` of a `lane`; the next event of the lane becomes ready. Takes `wait` (key of the lane's
-- list), `outstanding` (of the lane, this one included) and `size`; counts in `ended`, `ready`, `entries`, `bytes`.

if redis.call('XACK', KEYS[1], 'engines', id) == 1 then
  redis.call('XDEL', KEYS[1], id)
  if outstanding < 1 then -- somebody has removed what the queue had counted: it is in doubt, see lib/queues/room.lua
    redis.call('HSET', KEYS[3], 'doubt', '1')
    outstanding = 1 + math.floor(redis.call('LLEN', wait) / 6)
    entries, bytes = entries + outstanding, bytes + outstanding * size
  end
  ended, entries, bytes = ended + 1, entries - 1, bytes - size
  --- @include "queues/promote"
end
