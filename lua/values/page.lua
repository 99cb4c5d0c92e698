--[[
Reads a page of a scope that has deadlines, as HSCAN does, without the values whose deadline is over.

KEYS  1 values (hash)   2 scope_deadlines (sorted set)   3 clock (hash)   4 clock_copy (string)
ARGV  1 cursor   2 count: about how many   3 with_deadlines: '1' for the deadlines, too (optional)

Reply: the next cursor, and keys and values in turn; with_deadlines: keys, values and deadlines ('' for none)
]]

local values, scope_deadlines, clock, clock_copy = KEYS[1], KEYS[2], KEYS[3], KEYS[4]
local cursor, count, with_deadlines = ARGV[1], ARGV[2], ARGV[3]

--- @include "deadlines/unexpired"
local page = redis.call('HSCAN', values, cursor, 'COUNT', count)
return {page[1], unexpired(page[2], scope_deadlines, clock, clock_copy, with_deadlines)}
