--[[
The time of the fleet, which deadlines are told in.

KEYS  1 clock (hash)   2 clock_copy (string)
ARGV  none

Reply: milliseconds since 1970
]]

local clock, clock_copy = KEYS[1], KEYS[2]

--- @include "fleet/time"
local now = fleet_time(clock, clock_copy)
return now
