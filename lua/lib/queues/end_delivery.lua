-- Step: ends the pending delivery `id` of a lane, an event of `size` bytes; the next event of the lane becomes ready.
-- `outstanding` counts the events of the lane, `entries` and `bytes` those of the queue, this one included; `ended` and `ready`
-- count what was done.
-- Takes: stream, busy, wait, lineages, id, lane, size. Changes: outstanding, entries, bytes, ended, ready.

if redis.call('XACK', stream, 'engines', id) == 1 then
  redis.call('XDEL', stream, id)
  if outstanding < 1 then -- somebody has removed what the queue had counted: it is in doubt, see lib/queues/check_room.lua
    redis.call('HSET', busy, 'doubt', '1')
    outstanding = 1 + math.floor(redis.call('LLEN', wait) / 6)
    entries, bytes = entries + outstanding, bytes + outstanding * size
  end
  ended, entries, bytes = ended + 1, entries - 1, bytes - size
  --- @include "queues/promote"
end
