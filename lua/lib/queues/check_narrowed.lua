-- Step: does for one queue that is narrowed what lib/queues/check_room.lua does for any other: answers a call whose events find no
-- room in it. `count` is then {outstanding in the lane, entries, bytes, doubt, added entries, added bytes, tail}, nil where it
-- wants none of the events. `tail` is what waits last in the lane then: {write id, event type, whether it has an old text, bytes
-- of the new one}, nil where nothing waits. `joins` of the first event is the id of what waited last, with which it is told
-- together.
-- Takes: scope, key, lane, write_id, queue, stream, busy, wait, most_entries, most_bytes, ahead, events.
-- Gives: count.
--
-- Of what waits only its new value is read, for its size: its old value stays where it is.

local count = nil
if events[1] then
  local held = redis.call('HMGET', busy, lane, 'entries', 'bytes', 'doubt')
  local length, items, doubted, tail = redis.call('XLEN', stream), redis.call('LLEN', wait), 0, nil
  local waiting = math.floor(items / 6)
  if ahead then
    held = {ahead[lane] or held[1], ahead.entries, ahead.bytes, ahead.doubt}
    tail = ahead.tails and ahead.tails[lane]
  end
  local outstanding, entries, bytes = tonumber(held[1] or 0), tonumber(held[2] or 0), tonumber(held[3] or 0)
  local doubt = held[4] or not held[2] and (length > 0 or redis.call('EXISTS', stream) == 0 or items > 0)
  if doubt and outstanding == 0 then
    outstanding = 1 + waiting
    entries, doubted = entries + outstanding, outstanding
  end
  if events.coalesces and events[2] and outstanding > 0 then
    local over, own_event = events[1], events[2]
    if own_event[2] == 'created' then
      own_event[2] = 'updated'
    end
    own_event[3] = over[3]
    table.remove(events, 1)
  end
  local first, added, added_bytes = events[1], #events, 0
  for _, event in ipairs(events) do
    added_bytes = added_bytes + #scope + #key + #event[3] + #event[4]
  end
  local size = added_bytes
  bytes = bytes + doubted * size
  if events.coalesces and outstanding > 1 then
    if not tail and waiting > 0 then
      local last = redis.call('LRANGE', wait, -6, -3)
      if last[2] == scope and last[3] == key then
        local had_old = last[4] == 'updated' or last[4] == 'deleted' and redis.call('LINDEX', wait, -2) ~= ''
        tail = {last[1], last[4], had_old, #redis.call('LINDEX', wait, -1)}
      end
    end
    if tail then
      local existed = tail[2] == 'updated' or tail[2] == 'deleted' and tail[3]
      first.joins, first[2] = tail[1], first[4] == '' and 'deleted' or existed and 'updated' or 'created'
      first.has_old = existed
      added, added_bytes = 0, #first[4] - tail[4]
    end
  end
  if added > 0 and entries + added > most_entries then
    return {'FULL', queue - 1, 'max_queue_length', size}
  elseif added_bytes > 0 and bytes + added_bytes > most_bytes then
    return {'FULL', queue - 1, 'max_queue_bytes', size}
  end
  local last = events[#events]
  if outstanding + #events > 1 then
    local has_old = last[3] ~= ''
    if last.joins then
      has_old = last.has_old
    end
    tail = {write_id, last[2], has_old, #last[4]}
  end
  count = {outstanding, entries, bytes, doubt, added, added_bytes, tail}
end
