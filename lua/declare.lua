--[[
Makes facts known that all engines have to agree on: they stand among the routes, in fields whose names begin with a colon. Once
this has answered, no mutation of any engine is made without knowing them.

KEYS  1 routes (hash)   2 routes version   3 routes log (stream)   4 hold
ARGV  1 version that the engine knows   then of each fact: its name, its text

Reply, an array that begins with a word:
  DECLARED version changes   what has changed since the version that the engine knows, 1000 entries of the log at most
  HOLD                       the routes have to hold still for a moment: nothing changed
]]

local changes = {}
for fact = 2, #ARGV, 2 do
  if redis.call('HGET', KEYS[1], ARGV[fact]) ~= ARGV[fact + 1] then
    changes[#changes + 1] = ARGV[fact]
    changes[#changes + 1] = ARGV[fact + 1]
  end
end
redis.call('XLEN', KEYS[3])
local version = redis.call('GET', KEYS[2]) or '0'
if changes[1] then
  if redis.call('EXISTS', KEYS[4]) == 1 then
    return {'HOLD'}
  end
  version = string.format('%d', redis.call('INCR', KEYS[2]))
  redis.call('XADD', KEYS[3], 'MAXLEN', 1000, version .. '-0', unpack(changes))
  redis.call('HSET', KEYS[1], unpack(changes))
  redis.call('PUBLISH', KEYS[1], '')
end
return {'DECLARED', version, redis.call('XRANGE', KEYS[3], '(' .. ARGV[1], '+', 'COUNT', 1000)}
