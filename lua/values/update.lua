--[[
Applies a list of update ops to a value, atomically with the events of the write. An op that fails is skipped and reported.

KEYS and ARGV are those of values/set.lua, where ttl may also be `keep`, for the deadline that there was; then, instead of the
      value: most bytes of the result (compact)
      then, where a foreign text was checked: `f`, the text, its stored form ('' when it is the same)
      then, where an op that fails refuses the call: `x`, and `1` where one has failed already, else `0`
      then of each op: kind, number of names, the names, and
            set `s`, append `a`: value     increment `i`: signed operand     remove `r`: nothing
            merge `m`: number of members, then name and value of each
      Values are compact JSON in normal form, that of a `set` of the root in stored form. Names are JSON strings in normal form;
      that of a member of the root is given as the start of its line: LF, the name, a colon.

Reply, an array that begins with a word, as that of values/set.lua, but
  OK old new failures revision  stored; old is as of values/set.lua; failures are words, three of each op that was skipped:
                              its position in the arguments (from 0), the failure, the JSON type that was in the way
  FOREIGN text                the stored text is not known to be in stored form: nothing changed. Check it, and call again
                              with the text and its stored form, which takes its place if the text is still the same
  OP_FAILED failures          an op would be skipped, and the call is for all or nothing: nothing changed
  TOO_LARGE size              the result would have this many bytes: nothing changed
  AGAIN old failures          had been applied by an earlier call of this slot and number; nothing changed now
                              (new follows from old and the ops)
]]

--- @include "values/name_arguments"
--- @include "sessions/recognise"
--- @include "fleet/check_routes"

local old = redis.call('HGET', values, key)
--- @include "foreign/check_captured"
--- @include "deadlines/apply_deadline"
--- @include "values/check_log"
--- @include "values/check_form"
if conditions_at then
  --- @include "values/check_conditions"
end
local strict = ARGV[ops_at] == 'x'
if strict then
  ops_at = ops_at + 2
end
local ops_last = #ARGV
--- @include "values/apply_ops"
if strict and (failures ~= '' or ARGV[ops_at - 1] == '1') then
  return {'OP_FAILED', failures}
end

local new, most_bytes = document, tonumber(ARGV[own])
--- @include "values/check_size"
--- @include "values/store"
if revision then
  return {'OK', old, new, failures, revision}
end
return {'OK', old, new, failures}
