--[[
Looks for what another program has done to a scope: where it differs from its shadow. Changes nothing.

KEYS  1 values (hash)   2 shadow (hash)
ARGV  1 part: `v` for a page of the values, `s` for one of the shadow, which is to find what is not among the values   2 cursor
      3 count: fields of the page

Reply: the next cursor, the bytes that were looked at, and an array of the keys that differ. When the shadow's first page is asked
for, but it has as many fields as the scope, there is nothing to look at (what is among the values has been seen to by then).
]]

local values, shadow = KEYS[1], KEYS[2]
local part, cursor, count = ARGV[1], ARGV[2], ARGV[3]

local from_values = part == 'v'
if not from_values and cursor == '0' and redis.call('HLEN', values) == redis.call('HLEN', shadow) then
  return {'0', 0, {}}
end
local page = redis.call('HSCAN', from_values and values or shadow, cursor, 'COUNT', count)
local fields, differ, bytes = page[2], {}, 0
for from = 1, #fields, 1000 do
  local keys, upto = {}, math.min(#fields, from + 999)
  for at = from, upto, 2 do
    keys[#keys + 1] = fields[at]
  end
  if from_values then
    local seen = redis.call('HMGET', shadow, unpack(keys))
    for number, key in ipairs(keys) do
      local text = fields[from + 2 * number - 1]
      bytes = bytes + #key + #text
      if seen[number] ~= text then
        differ[#differ + 1] = key
      end
    end
  else
    for number, key in ipairs(keys) do
      bytes = bytes + #key + #fields[from + 2 * number - 1]
      if redis.call('HEXISTS', values, key) == 0 then
        differ[#differ + 1] = key
      end
    end
  end
end
return {page[1], bytes, differ}
