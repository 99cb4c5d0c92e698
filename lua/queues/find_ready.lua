--[[
Looks which queues hold an entry that is ready: one that no consumer has been given yet.

KEYS  then of each queue: stream (stream)
ARGV  nothing

Reply: the numbers of the streams, from 1, that hold one, and of those of which it cannot be told
]]

local ready = {}
for number, stream in ipairs(KEYS) do
  local length = redis.pcall('XLEN', stream)
  if type(length) == 'table' then
    ready[#ready + 1] = number
  elseif length > 0 then
    local groups, last = redis.pcall('XINFO', 'GROUPS', stream), nil
    local group = not groups.err and groups[1] or {}
    for field = 1, #group, 2 do
      last = group[field] == 'last-delivered-id' and group[field + 1] or last
    end
    if not last or #redis.call('XRANGE', stream, '(' .. last, '+', 'COUNT', 1) > 0 then
      ready[#ready + 1] = number
    end
  end
end
return ready
