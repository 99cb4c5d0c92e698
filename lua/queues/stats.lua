--[[
Tells of queues what operators look at.

KEYS  then of each queue: subscription (hash), busy (hash), stream (stream), dead (stream)
ARGV  nothing

Reply: of each queue, in their order, an array; nothing of one that is gone
  settings    fields and values of its subscription
  entries     how many events it holds, handled or not
  out         how many of them are pending
  there       how many are pending or ready
  dead        how many dead letters
  oldest      the id of the first of those that are pending or ready
]]

local found = {}
for first = 1, #KEYS, 4 do
  local subscription, busy, stream, dead = KEYS[first], KEYS[first + 1], KEYS[first + 2], KEYS[first + 3]
  local pending = redis.pcall('XPENDING', stream, 'engines')
  if pending.err and not string.find(pending.err, 'NOGROUP', 1, true) then
    return pending
  end
  local oldest = not pending.err and redis.call('XRANGE', stream, '-', '+', 'COUNT', 1)
  found[#found + 1] = oldest
    and {
      redis.call('HGETALL', subscription),
      redis.call('HGET', busy, 'entries'),
      pending[1],
      redis.call('XLEN', stream),
      redis.call('XLEN', dead),
      oldest[1] and oldest[1][1] or false,
    }
end
return found
