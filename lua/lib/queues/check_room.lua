-- Step: answers a call whose event finds no room in a queue, and goes on with any other. `old` and `new` are false where there is
-- none; `expired` has an event of its own. `counts` has of each queue {outstanding in the lane, entries, bytes, doubt}; `size` is
-- that of all events.
-- `queued` is nil, or has of each `busy` what it will hold once the steps before this one of a transaction have been written.
-- Takes: scope, key, lane, write_id, queue_count, filters_at, old, new, expired, all_checked, queued. Gives: counts, size.
--
-- A queue is three keys: stream, busy, wait. `busy` is a hash: lane -> how many of its events are outstanding, and `entries`
-- and `bytes` of the whole queue (a lane begins with a digit or `~`, so the names cannot meet). A stream that is
-- not empty, or not there, or a list of the lane where there are no `entries` tells that somebody has removed `busy`: until that
-- has been made good, `doubt` stands there, and every lane of which nothing is known counts as one with an event in the stream,
-- so that no event overtakes another.
--
-- Nothing is written here, and keys of a wrong type fail here. The first write of a script may fail for that itself, which
-- is why the first queue's stream or list is looked at only with `all_checked`.

--- @include "queues/narrow"
local counts, size
if queue_count > 0 then
  counts, size = {}, #scope + #key + (old and #old or 0) + (new and #new or 0)
  if expired then
    size = size + #scope + #key + #expired
  end
  for queue = 1, queue_count do
    local stream, busy, wait = KEYS[3 + 3 * queue], KEYS[4 + 3 * queue], KEYS[5 + 3 * queue]
    local most_entries, most_bytes = tonumber(ARGV[7 + 2 * queue]), tonumber(ARGV[8 + 2 * queue])
    local ahead = queued and queued[busy]
    local events = narrowed and narrowed[queue]
    if events then
      --- @include "queues/check_narrowed"
      counts[queue] = count
    else
      local held = redis.call('HMGET', busy, lane, 'entries', 'bytes', 'doubt')
      if ahead then
        held = {ahead[lane] or held[1], ahead.entries, ahead.bytes, ahead.doubt}
      end
      local outstanding, entries, bytes = tonumber(held[1] or 0), tonumber(held[2] or 0), tonumber(held[3] or 0)
      local doubt = held[4]
        or not held[2] and (redis.call('XLEN', stream) > 0 or redis.call('EXISTS', stream) == 0 or redis.call('LLEN', wait) > 0)
      if doubt and outstanding == 0 then
        outstanding = 1 + math.floor(redis.call('LLEN', wait) / 6)
        entries, bytes = entries + outstanding, bytes + outstanding * size
      end
      if entries + (expired and 1 or 0) >= most_entries then
        return {'FULL', queue - 1, 'max_queue_length', size}
      elseif bytes + size > most_bytes then
        return {'FULL', queue - 1, 'max_queue_bytes', size}
      end
      if all_checked or queue > 1 or expired then
        redis.call(outstanding == 0 and 'XLEN' or 'LLEN', outstanding == 0 and stream or wait)
      end
      if expired then
        redis.call('LLEN', wait)
      end
      counts[queue] = {outstanding, entries, bytes, doubt}
    end
  end
end
