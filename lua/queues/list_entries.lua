--[[
Lists entries of a queue's stream without their values, which may be large: up to 200, fewer where they are.

KEYS  1 stream (stream)
ARGV  1 start: from which id on, as in XRANGE

Reply: an array of {entry id, scope, key}; scope and key are '' in what is no event
]]

local stream = KEYS[1]
local start = ARGV[1]

local found, bytes = {}, 0
while #found < 200 and bytes < 4194304 do
  local entry = redis.call('XRANGE', stream, start, '+', 'COUNT', 1)[1]
  if not entry then
    break
  end
  local fields = entry[2]
  found[#found + 1] = {entry[1], fields[4] or '', fields[6] or ''}
  for _, field in ipairs(fields) do
    bytes = bytes + #field
  end
  start = '(' .. entry[1]
end
return found
