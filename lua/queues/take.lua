--[[
Takes deliveries that are ready; they are pending at this engine from now on.

KEYS  1 stream (stream)   2 engines (hash)   3 busy (hash)   4 paused (hash)
ARGV  1 engine   2 most: deliveries   3 subscription: its id

Reply, an array that begins with a word:
  OK entries fence     each entry is {id, fields}; fields are `w` write id, `s` scope, `k` key, `t` event type, `o` old, `n` new
                       ('' for none), and, where it has been tried before, `a` the attempt's number, and, where a worker went away
                       with it, `c` how often, and, where that is told, `x` what the write was made within; the fence has grown
                       with every takeover
  PAUSED entries fence     an operator has paused the subscription: no entries, and the fence is 0
  FENCED               the engine is not among the engines: nothing was taken
An error NOGROUP says that there is no such queue.
]]

local stream, engines, busy, paused = KEYS[1], KEYS[2], KEYS[3], KEYS[4]
local engine, most, subscription = ARGV[1], tonumber(ARGV[2]), ARGV[3]

if redis.call('HEXISTS', engines, engine) == 0 then
  return {'FENCED'}
elseif redis.pcall('HEXISTS', paused, subscription) == 1 then
  return {'PAUSED', {}, 0}
end
--- @include "queues/take_ready"
local fence = taken[1] and redis.pcall('HGET', busy, 'fence') -- what has been taken is told, whatever has become of `busy`
return {'OK', taken, tonumber(type(fence) == 'string' and fence or 0)}
