--[[
Looks for what is pending in a queue, but is not in its stream any more.

KEYS  1 stream (stream)
ARGV  1 behind: id behind which to begin, `-` for the first   2 most: that are looked at   3 most_bytes: after which to stop
      4 is_ending: '1' to let what is missing be pending no more

Reply: the id of the last one that was looked at, '' for none; and how many were missing
]]

local stream = KEYS[1]
local behind, most, most_bytes, is_ending = ARGV[1], ARGV[2], tonumber(ARGV[3]), ARGV[4]

local last, missing, bytes = '', 0, 0
local first = behind == '-' and '-' or '(' .. behind
for _, pending in ipairs(redis.call('XPENDING', stream, 'engines', first, '+', most)) do
  if bytes >= most_bytes then
    break
  end
  last = pending[1]
  local entry = redis.call('XRANGE', stream, last, last)[1]
  if entry then
    bytes = bytes + #(entry[2][10] or '') + #(entry[2][12] or '')
  else
    missing = missing + 1
    if is_ending == '1' then
      redis.call('XACK', stream, 'engines', last)
    end
  end
end
return {last, missing}
