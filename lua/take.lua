--[[
Takes deliveries that are ready; they are pending at this engine from now on.

KEYS  1 stream of the queue   2 engines (hash)
ARGV  1 engine   2 most deliveries

Reply, an array that begins with a word:
  OK entries     each is {id, fields}; fields are `w` write id, `s` scope, `k` key, `t` event type, `o` old, `n` new ('' for none)
  FENCED         the engine is not among the engines: nothing was taken
An error NOGROUP says that there is no such queue.
]]

if redis.call('HEXISTS', KEYS[2], ARGV[1]) == 0 then
  return {'FENCED'}
end
local want = tonumber(ARGV[2])
--- @include "take"
return {'OK', taken}
