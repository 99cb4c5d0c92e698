--[[
Makes planned attempts ready.

KEYS  1 later (sorted set)   2 stream of the queue
ARGV  1 queue   then the entry ids

Reply: how many there were still. One that another engine has made ready, or whose queue is gone, is passed over.
]]

redis.call('XLEN', KEYS[2])
local made = 0
for number = 2, #ARGV do
  if redis.call('ZREM', KEYS[1], ARGV[1] .. ':' .. ARGV[number]) == 1 then
    local entry = redis.call('XRANGE', KEYS[2], ARGV[number], ARGV[number])[1]
    if entry then
      local fields = entry[2]
      fields[14] = tonumber(fields[14] or 1) + 1
      fields[13] = 'a'
      redis.call('XADD', KEYS[2], '*', unpack(fields))
      redis.call('XDEL', KEYS[2], ARGV[number])
      made = made + 1
    end
  end
end
if made > 0 then
  redis.call('PUBLISH', KEYS[2], '')
end
return made
