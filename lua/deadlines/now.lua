--[[
The time of the fleet, which deadlines are told in.

KEYS  1 clock (hash)
ARGV  none

Reply: milliseconds since 1970
]]

local clock = KEYS[1]

--- @include "fleet/time"
local now = fleet_time(clock)
return now
