--[[
Looks at some of the values of a scope, and changes nothing.

KEYS  1 values (hash)
ARGV  1 cursor: 0, or what has been answered   2 count: as in HSCAN   3 large: bytes from which on a value is

Reply, an array: the next cursor, 0 at the end; how many values there were; their bytes; {key, bytes} of those that are large; and
{key, text} of those that do not begin and end as this module writes objects, and have to be looked at further
]]

local values = KEYS[1]
local cursor, count, large = ARGV[1], ARGV[2], tonumber(ARGV[3])

local page = redis.call('HSCAN', values, cursor, 'COUNT', count)
local fields, bytes, too_large, others = page[2], 0, {}, {}
for at = 1, #fields, 2 do
  local key, text = fields[at], fields[at + 1]
  bytes = bytes + #text
  if #text >= large then
    too_large[#too_large + 1] = {key, #text}
  end
  if text ~= '{}' and (string.sub(text, 1, 4) ~= '{\t\n"' or string.sub(text, -2) ~= '\n}') then
    others[#others + 1] = {key, text}
  end
end
return {page[1], #fields / 2, bytes, too_large, others}
