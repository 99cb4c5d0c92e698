--[[
Looks for what another program has done to a scope: where it differs from its shadow. Changes nothing.

KEYS  1 values of the scope (hash)   2 shadow of the scope (hash)
ARGV  1 `v` for a page of the values, `s` for one of the shadow: what is not among the values   2 cursor   3 fields of the page

Reply: the next cursor, the bytes that were looked at, and an array of the keys that differ. When the shadow's first page is asked
for, but it has as many fields as the scope, there is nothing to look at (what is among the values has been seen to by then).
]]

local from_values = ARGV[1] == 'v'
if not from_values and ARGV[2] == '0' and redis.call('HLEN', KEYS[1]) == redis.call('HLEN', KEYS[2]) then
  return {'0', 0, {}}
end
local page = redis.call('HSCAN', KEYS[from_values and 1 or 2], ARGV[2], 'COUNT', ARGV[3])
local fields, differ, bytes = page[2], {}, 0
for from = 1, #fields, 1000 do
  local keys, upto = {}, math.min(#fields, from + 999)
  for at = from, upto, 2 do
    keys[#keys + 1] = fields[at]
  end
  if from_values then
    local seen = redis.call('HMGET', KEYS[2], unpack(keys))
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
      if redis.call('HEXISTS', KEYS[1], key) == 0 then
        differ[#differ + 1] = key
      end
    end
  end
end
return {page[1], bytes, differ}
