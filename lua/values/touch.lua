--[[
Gives a value another deadline, or takes it away. That is no event.

KEYS and ARGV are those of values/set.lua; instead of the value: `over`, where it has been tried to remove a value that is over

Reply, an array that begins with a word, as that of values/set.lua, but
  OK found                    found is 1 where there is a value, else 0
  AGAIN old found             had been done by an earlier call of this slot and number; nothing changed now
  OVER                        the deadline of the value is over: nothing changed. Call deadlines/expire.lua, and this again
]]

--- @include "values/name_arguments"
--- @include "sessions/recognise"
--- @include "fleet/check_routes"

local old, new, failures, revision = redis.call('HGET', values, key), false, '0', false
--- @include "foreign/check_captured"
--- @include "deadlines/apply_deadline"
if expired and ARGV[own] ~= 'over' then
  return {'OVER'}
end
if old then
  --- @include "deadlines/store_deadline"
  old, failures = false, '1'
end
--- @include "sessions/record"
return {'OK', tonumber(failures)}
