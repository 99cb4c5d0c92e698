--[[
Looks whether queues are as the scripts leave them, at a cost that does not depend on what they hold, and makes good what is simple.

In a queue that nobody else has touched
- the stream has the group `engines`, and exactly one event of each lane that `busy` has, no more and no less;
- an event of the stream that has been taken is pending at one of the engines, or planned;
- a lane counts, in `busy`, its event in the stream and those that wait behind it; `entries` is the sum;
- the subscription is hosted by engines of the fleet, or by none, and then its retention runs.
The first is looked at here, what takes a look at each event or lane in repair/requeue_entries.lua and repair/resume_lanes.lua.

KEYS  1 engines (hash)   2 routes (hash)   3 hosts (set)   4 orphans (sorted set)   5 dead_queues (set)   6 clock (hash)
      7 clock_copy (string)
      then of each queue: stream (stream), busy (hash), subscription (hash), dead (stream)
ARGV  1 engine   2 retention_ms: for so long a queue is kept whose subscription is gone   then of each queue: its name, '1' where
      the engine hosts it

Reply: an array of what was found, each {number of the queue (from 1), word, detail}
  TYPE         the key of this name is of another type
  GROUP        there is no group; with it has gone what was pending. Who makes it anew writes down since when, by the time of the
               fleet: the field `cut` of the subscription, until the queue goes on; '' where that has still to be written down
  UNEVEN       there are not as many events in the stream as lanes in `busy`, or the queue is in doubt (lib/queues/room.lua)
  EVENTS       the stream is not empty
  GONE         this engine hosts the queue, or has something pending in it, but is none of the engines
  UNHOSTED     the engine should host it, and does not
  UNSERVED     nobody hosts it
  UNKNOWN      there is no subscription, and was none before: the queue is kept for so many milliseconds from now on
  LOST         so many events were found missing by other scripts; told once
  DEAD         there were dead letters, and are none any more
]]

local engines, routes, hosts, orphans, dead_queues = KEYS[1], KEYS[2], KEYS[3], KEYS[4], KEYS[5]
local clock, clock_copy = KEYS[6], KEYS[7]
local engine, retention_ms = ARGV[1], ARGV[2]

--- @include "fleet/time"
local now = fleet_time(clock, clock_copy)
local found = {}
local number, is_right
local function report(word, detail)
  found[#found + 1] = {number, word, detail or ''}
end
local function read(key, command, ...)
  local reply = redis.pcall(command, key, ...)
  if type(reply) == 'table' and reply.err then
    if string.find(reply.err, 'WRONGTYPE', 1, true) then
      report('TYPE', key)
    end
    is_right = false
  end
  return reply
end

for queue_number = 1, (#KEYS - 7) / 4 do
  number, is_right = queue_number, true
  local stream, busy, subscription, dead = unpack(KEYS, 4 + 4 * number, 7 + 4 * number)
  local queue, is_hosted = ARGV[2 * number + 1], ARGV[2 * number + 2] == '1'
  local fields = read(subscription, 'HKEYS')
  local length = read(stream, 'XLEN')
  local held = read(busy, 'HMGET', 'entries', 'bytes', 'fence', 'doubt', 'lost')
  local dead_letters = read(dead, 'XLEN')

  local settings, retention, host_count, is_ending, is_cut = false, false, 0, false, false
  if is_right then
    for _, field in ipairs(fields) do
      if string.sub(field, 1, 3) == 'at:' then
        host_count = host_count + 1
        if redis.call('HEXISTS', engines, string.sub(field, 4)) == 0 then
          report('GONE', string.sub(field, 4))
        end
      end
      settings, retention = settings or field == 'settings', retention or field == 'retention'
      is_ending, is_cut = is_ending or field == 'ending', is_cut or field == 'cut'
    end
  end
  local is_routed = redis.call('HEXISTS', routes, queue) == 1
  if is_right and is_hosted and not is_routed then
    report('UNHOSTED')
  elseif is_right and not is_ending and is_routed then
    local pending = redis.pcall('XPENDING', stream, 'engines')
    if pending.err then
      report('GROUP')
    else
      for _, consumer in ipairs(pending[4] or {}) do
        if redis.call('HEXISTS', engines, consumer[1]) == 0 then
          report('GONE', consumer[1])
        end
      end
    end
    if is_cut and redis.call('HGET', subscription, 'cut') == '' then
      redis.call('HSET', subscription, 'cut', now)
    end
    if not settings and host_count == 0 and not retention then
      redis.call('HSET', subscription, 'retention', retention_ms)
      redis.call('ZADD', orphans, now + retention_ms, queue)
      report('UNKNOWN', retention_ms)
    elseif host_count == 0 and retention and not redis.call('ZSCORE', orphans, queue) then
      redis.call('ZADD', orphans, now + redis.call('HGET', subscription, 'retention'), queue)
    end
    if host_count == 0 then
      report('UNSERVED')
    end
    if is_hosted
      and (redis.call('HEXISTS', subscription, 'at:' .. engine) == 0 or redis.call('SISMEMBER', hosts, queue) == 0) then
      report('UNHOSTED')
    end

    local lanes = redis.call('HLEN', busy)
    for at = 1, 5 do
      lanes = held[at] and lanes - 1 or lanes
    end
    if held[5] then
      redis.call('HDEL', busy, 'lost')
      redis.call('HINCRBY', subscription, 'lost', held[5])
      report('LOST', held[5])
    end
    if lanes ~= length or held[4] then
      report('UNEVEN', held[4] and 'doubt')
    elseif length == 0 then
      if held[1] then
        redis.call('HDEL', busy, 'entries', 'bytes')
      end
    else
      report('EVENTS')
    end

    if dead_letters > 0 then
      redis.call('SADD', dead_queues, queue)
    elseif redis.call('SREM', dead_queues, queue) == 1 then
      report('DEAD')
    end
  end
end
return found
