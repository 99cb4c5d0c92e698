-- Step: appends the event to every queue, as lib/queues/check_room.lua found them, and in front of it that of a value whose
-- deadline is over.
-- Takes: scope, key, lane, write_id, lineage, lineages_at, queue_count, old, new, expired, narrowed, counts, size.
--
-- The wake-up tells whose write it was: that engine takes without having heard it.
-- At most one event of a lane is in the stream; those behind it are in the list `wait`, six items each. Old and new stay
-- fields of their own wherever they go: to join them with anything would cost a pass over every byte. What the event of a value
-- that was over is, its write's id says (`write_id_of` in iii_state/events.py).
--
-- What the write was made within (`lineage`) is item 18 of an entry in the stream, behind the attempt and the crashes, where
-- scripts of 0.2.0 leave it in peace. Of an event that waits it is in the hash `lineages`, and a `+` before the write's id says
-- that it is there.

for queue = 1, queue_count do
  local stream, busy, wait, count = KEYS[3 + 3 * queue], KEYS[4 + 3 * queue], KEYS[5 + 3 * queue], counts[queue]
  local events = narrowed and narrowed[queue]
  if events then
    if count then
      --- @include "queues/enqueue_narrowed"
    end
  else
    local outstanding, added = count[1], 0
    if expired then
      local expiry_id = (lineages_at < #KEYS and string.sub(write_id, 2) or write_id) .. '-over'
      if outstanding == 0 then
        redis.call('XADD', stream, '*', 'w', expiry_id, 's', scope, 'k', key, 't', 'deleted', 'o', expired, 'n', '')
        redis.call('PUBLISH', stream, '')
      else
        redis.call('RPUSH', wait, expiry_id, scope, key, 'deleted', expired, '')
      end
      added = 1
    end
    local event_type = not new and 'deleted' or old and 'updated' or 'created'
    if outstanding + added == 0 and lineage ~= '' then
      redis.call('XADD', stream, '*', 'w', write_id, 's', scope, 'k', key, 't', event_type, 'o', old or '', 'n', new or '',
        'a', 1, 'c', 0, 'x', lineage)
      redis.call('PUBLISH', stream, write_id)
    elseif outstanding + added == 0 then
      redis.call('XADD', stream, '*', 'w', write_id, 's', scope, 'k', key, 't', event_type, 'o', old or '', 'n', new or '')
      redis.call('PUBLISH', stream, write_id)
    else
      redis.call('RPUSH', wait, write_id, scope, key, event_type, old or '', new or '')
      if lineage ~= '' then
        --- @include "queues/keep_lineage"
        keep_lineage(KEYS[lineages_at + queue], write_id, lineage, count[2] + added + 1)
      end
    end
    added = added + 1
    redis.call('HSET', busy, lane, outstanding + added, 'entries', count[2] + added, 'bytes', count[3] + size)
    if count[4] then
      redis.call('HSET', busy, 'doubt', '1')
    end
  end
end
