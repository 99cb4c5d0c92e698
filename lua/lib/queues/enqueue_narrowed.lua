-- Step: does for one queue that is narrowed what lib/queues/enqueue.lua does for any other. What is told together with the event
-- that waits last in its lane takes its place; the old value stays.
-- Takes: scope, key, lane, write_id, lineage, lineages_at, queue, stream, busy, wait, events, count.

do
  local outstanding = count[1]
  for _, event in ipairs(events) do
    local is_over, event_type, old_text, new_text = unpack(event, 1, 4)
    local id = write_id
    if is_over then
      id = (lineages_at < #KEYS and string.sub(write_id, 2) or write_id) .. '-over'
    end
    if event.joins then
      redis.call('LSET', wait, -6, id)
      redis.call('LSET', wait, -3, event_type)
      redis.call('LSET', wait, -1, new_text)
    elseif outstanding == 0 and lineage ~= '' and not is_over then
      redis.call('XADD', stream, '*', 'w', id, 's', scope, 'k', key, 't', event_type, 'o', old_text, 'n', new_text,
        'a', 1, 'c', 0, 'x', lineage)
      redis.call('PUBLISH', stream, id)
    elseif outstanding == 0 then
      redis.call('XADD', stream, '*', 'w', id, 's', scope, 'k', key, 't', event_type, 'o', old_text, 'n', new_text)
      redis.call('PUBLISH', stream, is_over and '' or id)
    else
      redis.call('RPUSH', wait, id, scope, key, event_type, old_text, new_text)
    end
    if event.joins and string.byte(event.joins) == 43 and lineages_at < #KEYS then
      redis.pcall('HDEL', KEYS[lineages_at + queue], event.joins)
    end
    if lineage ~= '' and not is_over and (event.joins or outstanding > 0) then
      --- @include "queues/keep_lineage" again
      keep_lineage(KEYS[lineages_at + queue], write_id, lineage, count[2] + #events)
    end
    outstanding = outstanding + 1
  end
  redis.call('HSET', busy, lane, count[1] + count[5], 'entries', count[2] + count[5], 'bytes', count[3] + count[6])
  if count[4] then
    redis.call('HSET', busy, 'doubt', '1')
  end
end
