--[[
Takes scopes without values out of the index of scopes.

KEYS  1 scopes (set)   then the values of each scope (hash)
ARGV  each scope, in the same order

Reply: the scopes that have no values
]]

local empty = {}
for at = 1, #ARGV do
  if redis.call('EXISTS', KEYS[at + 1]) == 0 then
    redis.call('SREM', KEYS[1], ARGV[at])
    empty[#empty + 1] = ARGV[at]
  end
end
return empty
