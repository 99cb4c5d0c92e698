-- Step: answers a call whose event finds no room in a queue, and goes on with any other. Takes `old` and `new` (false where
-- there is none), `expired` (which has an event of its own) and `all_checked`; gives `counts`, of each queue {outstanding in the
-- lane, entries, bytes}, and `size`, of all events.
--
-- A queue is three keys: stream, busy, wait. `busy` is a hash: lane -> how many of its events are outstanding, and `entries`
-- and `bytes` of the whole queue (a lane begins with a digit or `~`, so the names cannot meet). A stream that is not empty where
-- there are no `entries` tells that somebody has removed `busy`: until that has been made good, `doubt` stands there, and every
-- lane of which nothing is known counts as one with an event in the stream, so that no event overtakes another.
--
-- Nothing is written here, and keys of a wrong type fail here. The first write of a script may fail for that itself, which
-- is why the first queue's stream or list is looked at only with `all_checked`.

local counts, size
if queue_count > 0 then
  counts, size = {}, #ARGV[5] + #ARGV[6] + (old and #old or 0) + (new and #new or 0)
  if expired then
    size = size + #ARGV[5] + #ARGV[6] + #expired
  end
  for queue = 1, queue_count do
    local keys = 3 + 3 * queue
    local held = redis.call('HMGET', KEYS[keys + 1], ARGV[7], 'entries', 'bytes', 'doubt')
    local lane, entries, bytes = tonumber(held[1] or 0), tonumber(held[2] or 0), tonumber(held[3] or 0)
    local doubt = held[4] or not held[2] and redis.call('XLEN', KEYS[keys]) > 0
    if doubt and lane == 0 then
      lane = 1 + math.floor(redis.call('LLEN', KEYS[keys + 2]) / 6)
      entries, bytes = entries + lane, bytes + lane * size
    end
    if entries + (expired and 1 or 0) >= tonumber(ARGV[7 + 2 * queue]) then
      return {'FULL', queue - 1, 'max_queue_length', size}
    elseif bytes + size > tonumber(ARGV[8 + 2 * queue]) then
      return {'FULL', queue - 1, 'max_queue_bytes', size}
    end
    if all_checked or queue > 1 or expired then
      redis.call(lane == 0 and 'XLEN' or 'LLEN', KEYS[lane == 0 and keys or keys + 2])
    end
    if expired then
      redis.call('LLEN', KEYS[keys + 2])
    end
    counts[queue] = {lane, entries, bytes, doubt}
  end
end
