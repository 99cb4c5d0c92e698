--[[
Looks for what is pending in a queue, but is not in its stream any more.

KEYS  1 stream of the queue
ARGV  1 id behind which to begin, `-` for the first   2 most that are looked at   3 bytes after which to stop
      4 `1` to let it be pending no more

Reply: the id of the last one that was looked at, '' for none; and how many there were
]]

local last, missing, bytes = '', 0, 0
local first = ARGV[1] == '-' and '-' or '(' .. ARGV[1]
for _, pending in ipairs(redis.call('XPENDING', KEYS[1], 'engines', first, '+', ARGV[2])) do
  if bytes >= tonumber(ARGV[3]) then
    break
  end
  last = pending[1]
  local entry = redis.call('XRANGE', KEYS[1], last, last)[1]
  if entry then
    bytes = bytes + #(entry[2][10] or '') + #(entry[2][12] or '')
  else
    missing = missing + 1
    if ARGV[4] == '1' then
      redis.call('XACK', KEYS[1], 'engines', last)
    end
  end
end
return {last, missing}
