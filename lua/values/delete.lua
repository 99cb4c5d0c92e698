--[[
Removes a value, atomically with the events of the write. A missing key is an event all the same.

KEYS, ARGV and reply are those of values/set.lua, without the value.
]]

--- @include "sessions/session"
--- @include "fleet/routes"
--- @include "values/arguments"

local old, new, failures = redis.call('HGET', KEYS[1], ARGV[6]), false, ''
--- @include "foreign/captured"
--- @include "deadlines/deadline"
--- @include "values/remove"
return {'OK', old}
