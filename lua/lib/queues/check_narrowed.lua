-- Step: does for one queue that is narrowed what lib/queues/check_room.lua does for any other: answers a call whose events find no
-- room in it. `count` is then {outstanding in the lane, entries, bytes, doubt, added entries, added bytes}, nil where it wants none
-- of the events. `joins` of the first event is the id of what waits in the lane, with which it is told together.
-- Takes: scope, key, lane, queue, stream, busy, wait, most_entries, most_bytes, events. Gives: count.
--
-- Of what waits only its new value is read, for its size: its old value stays where it is.

local count = nil
if events[1] then
  local held = redis.call('HMGET', busy, lane, 'entries', 'bytes', 'doubt')
  local outstanding, entries, bytes = tonumber(held[1] or 0), tonumber(held[2] or 0), tonumber(held[3] or 0)
  local doubt = held[4] or not held[2] and redis.call('XLEN', stream) > 0
  local waiting = math.floor(redis.call('LLEN', wait) / 6)
  local doubted = 0
  redis.call('XLEN', stream)
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
  if events.coalesces and outstanding > 1 and waiting > 0 then
    local last = redis.call('LRANGE', wait, -6, -3)
    if last[2] == scope and last[3] == key then
      local existed = last[4] == 'updated' or last[4] == 'deleted' and redis.call('LINDEX', wait, -2) ~= ''
      first.joins, first[2] = last[1], first[4] == '' and 'deleted' or existed and 'updated' or 'created'
      added, added_bytes = 0, #first[4] - #redis.call('LINDEX', wait, -1)
    end
  end
  if added > 0 and entries + added > most_entries then
    return {'FULL', queue - 1, 'max_queue_length', size}
  elseif added_bytes > 0 and bytes + added_bytes > most_bytes then
    return {'FULL', queue - 1, 'max_queue_bytes', size}
  end
  count = {outstanding, entries, bytes, doubt, added, added_bytes}
end
