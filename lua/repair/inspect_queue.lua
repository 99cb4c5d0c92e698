--[[
Looks whether a queue is as iii-state left it, and changes nothing. What holds in one that no other program has touched is said in
repair/check_queues.lua, which puts right what it can.

KEYS  1 stream (stream)   2 busy (hash)   3 subscription (hash)
ARGV  1 most: lanes that are added up, and told, at most

Reply: an array of what was found, each {word, detail}; and an array of up to `most` lanes in which events should wait
  TYPE         the key of this name is of another type
  GROUP        there is no group: with it has gone what was pending
  UNEVEN       there are not as many events in the stream as lanes in `busy`
  DOUBT        the queue is in doubt: it has not been counted since it was damaged
  COUNT        the lanes do not add up to the number of events
  UNKNOWN      there is no subscription, and no engine has seen that yet: its queue would stay for ever
  LOST         so many events were found to be lost
]]

local stream, busy, subscription = KEYS[1], KEYS[2], KEYS[3]
local most = tonumber(ARGV[1])

local found, waiting = {}, {}
local function report(word, detail)
  found[#found + 1] = {word, detail or ''}
end
for number, key in ipairs(KEYS) do
  local kind = redis.call('TYPE', key)
  kind = kind.ok or kind
  if kind ~= 'none' and kind ~= (number == 1 and 'stream' or 'hash') then
    report('TYPE', key)
  end
end
if found[1] then
  return {found, waiting}
end
if redis.call('HEXISTS', subscription, 'ending') == 1 then
  return {found, waiting}
end
if redis.call('HEXISTS', subscription, 'settings') == 0 and redis.call('HEXISTS', subscription, 'retention') == 0 then
  report('UNKNOWN')
end
local lost = tonumber(redis.call('HGET', subscription, 'lost') or 0) + tonumber(redis.call('HGET', busy, 'lost') or 0)
if lost > 0 then
  report('LOST', lost)
end
if redis.pcall('XPENDING', stream, 'engines').err then
  report('GROUP')
end
local held = redis.call('HMGET', busy, 'entries', 'bytes', 'fence', 'doubt', 'lost')
local lanes, length = redis.call('HLEN', busy), redis.call('XLEN', stream)
for at = 1, 5 do
  lanes = held[at] and lanes - 1 or lanes
end
if held[4] then
  report('DOUBT')
end
if lanes ~= length then
  report('UNEVEN')
elseif lanes <= most then
  local events = 0
  local fields = redis.call('HGETALL', busy)
  for at = 1, #fields, 2 do
    local first = string.byte(fields[at])
    if first == 126 or first < 58 then
      events = events + tonumber(fields[at + 1])
      if tonumber(fields[at + 1]) > 1 then
        waiting[#waiting + 1] = fields[at]
      end
    end
  end
  if events ~= tonumber(held[1] or 0) then
    report('COUNT')
  end
end
return {found, waiting}
