-- Step: appends the event to every queue, as room.lua found them. Takes `old`, `new`, `counts`, `size`.
--
-- The bell tells whose write it was: that engine takes without having heard it.
-- At most one event of a lane is in the stream; those behind it are in the list `wait`, six items each. Old and new stay
-- fields of their own wherever they go: to join them with anything would cost a pass over every byte.

for queue = 1, queue_count do
  local keys, count = 3 + 3 * queue, counts[queue]
  local event_type = not new and 'deleted' or old and 'updated' or 'created'
  if count[1] == 0 then
    redis.call('XADD', KEYS[keys], '*', 'w', ARGV[8], 's', ARGV[5], 'k', ARGV[6], 't', event_type, 'o', old or '', 'n', new or '')
    redis.call('PUBLISH', KEYS[keys], ARGV[8])
  else
    redis.call('RPUSH', KEYS[keys + 2], ARGV[8], ARGV[5], ARGV[6], event_type, old or '', new or '')
  end
  redis.call('HSET', KEYS[keys + 1], ARGV[7], count[1] + 1, 'entries', count[2] + 1, 'bytes', count[3] + size)
end
