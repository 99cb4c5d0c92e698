-- Step: appends the event to every queue, as lib/queues/room.lua found them, and in front of it that of a value whose deadline is over.
-- Takes `expired`, `old`, `new`, `counts`, `size`.
--
-- The bell tells whose write it was: that engine takes without having heard it.
-- At most one event of a lane is in the stream; those behind it are in the list `wait`, six items each. Old and new stay
-- fields of their own wherever they go: to join them with anything would cost a pass over every byte.

for queue = 1, queue_count do
  local keys, count = 3 + 3 * queue, counts[queue]
  local outstanding, events = count[1], 0
  if expired then
    local write = ARGV[8] .. '-over'
    if outstanding == 0 then
      redis.call('XADD', KEYS[keys], '*', 'w', write, 's', ARGV[5], 'k', ARGV[6], 't', 'deleted', 'o', expired, 'n', '')
      redis.call('PUBLISH', KEYS[keys], '')
    else
      redis.call('RPUSH', KEYS[keys + 2], write, ARGV[5], ARGV[6], 'deleted', expired, '')
    end
    events = 1
  end
  local event_type = not new and 'deleted' or old and 'updated' or 'created'
  if outstanding + events == 0 then
    redis.call('XADD', KEYS[keys], '*', 'w', ARGV[8], 's', ARGV[5], 'k', ARGV[6], 't', event_type, 'o', old or '', 'n', new or '')
    redis.call('PUBLISH', KEYS[keys], ARGV[8])
  else
    redis.call('RPUSH', KEYS[keys + 2], ARGV[8], ARGV[5], ARGV[6], event_type, old or '', new or '')
  end
  events = events + 1
  redis.call('HSET', KEYS[keys + 1], ARGV[7], outstanding + events, 'entries', count[2] + events, 'bytes', count[3] + size)
  if count[4] then
    redis.call('HSET', KEYS[keys + 1], 'doubt', '1')
  end
end
