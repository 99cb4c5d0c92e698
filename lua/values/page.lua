--[[
Reads a page of a scope that has deadlines, as HSCAN does, without the values whose deadline is over.

KEYS  1 values of the scope (hash)   2 deadlines of its keys (sorted set)   3 clock (hash)
ARGV  1 cursor   2 about how many

Reply: the next cursor, and keys and values in turn
]]

local page = redis.call('HSCAN', KEYS[1], ARGV[1], 'COUNT', ARGV[2])
local found = page[2]
local clock = KEYS[3]
--- @include "deadlines/unexpired"
return {page[1], found}
