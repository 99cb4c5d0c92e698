--[[
Makes planned attempts ready: as the next attempt, or, where the half of a millisecond in its time says that its worker went away in
mid-call, as the same one with one crash more. Items 13 and 14 of an entry are `a` and the number of its attempt, 15 and 16 `c` and
how many crashes there were.

KEYS  1 later (sorted set)   2 stream (stream)
ARGV  1 queue   then the entry ids

Reply: how many there were still. One that another engine has made ready, or whose queue is gone, is passed over.
]]

local later, stream = KEYS[1], KEYS[2]
local queue = ARGV[1]

redis.call('XLEN', stream)
local made = 0
for number = 2, #ARGV do
  local id = ARGV[number]
  local planned = queue .. ':' .. id
  local due = redis.call('ZSCORE', later, planned)
  if due then
    redis.call('ZREM', later, planned)
    local entry = redis.call('XRANGE', stream, id, id)[1]
    if entry then
      local fields = entry[2]
      local crashed = tonumber(due) % 1 ~= 0
      fields[13], fields[14] = 'a', tonumber(fields[14] or 1) + (crashed and 0 or 1)
      if crashed then
        fields[15], fields[16] = 'c', tonumber(fields[16] or 0) + 1
      end
      redis.call('XADD', stream, '*', unpack(fields))
      redis.call('XDEL', stream, id)
      made = made + 1
    end
  end
end
if made > 0 then
  redis.call('PUBLISH', stream, '')
end
return made
