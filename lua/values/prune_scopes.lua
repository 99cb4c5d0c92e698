--[[
Takes scopes without values out of the index of scopes.

KEYS  1 scopes (set)   then of each scope: values (hash)
ARGV  each scope, in the same order

Reply: the scopes that have no values
]]

local scopes = KEYS[1]

local empty = {}
for number, scope in ipairs(ARGV) do
  local values = KEYS[number + 1]
  if redis.call('EXISTS', values) == 0 then
    redis.call('SREM', scopes, scope)
    empty[#empty + 1] = scope
  end
end
return empty
