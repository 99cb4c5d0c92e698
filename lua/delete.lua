--[[
Removes a value, atomically with the events of the write. A missing key is an event all the same.

KEYS, ARGV and reply are those of set.lua, without the value.
]]

--- @include "session"
--- @include "routes"
--- @include "arguments"

local old, new, failures = redis.call('HGET', KEYS[1], ARGV[6]), false, ''
--- @include "unseen"
--- @include "deadline"
--- @include "remove"
return {'OK', old}
