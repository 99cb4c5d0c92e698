--[[
Removes a value, atomically with the events of the write. A missing key is an event all the same.

KEYS, ARGV and reply are those of values/set.lua, without the value ('' in its place, where a text was checked).
]]

--- @include "values/name_arguments"
--- @include "sessions/recognise"
--- @include "fleet/check_routes"

local old, new, failures = redis.call('HGET', values, key), false, ''
--- @include "foreign/check_captured"
--- @include "deadlines/apply_deadline"
--- @include "values/check_log"
if conditions_at then
  --- @include "values/check_form"
  --- @include "values/check_conditions"
end
--- @include "values/remove"
if revision then
  return {'OK', old, revision}
end
return {'OK', old}
