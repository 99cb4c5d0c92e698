--[[
Declares an engine dead: from now on it can take and end nothing. Its queues are then taken over, one by one, by fleet/takeover.lua.

KEYS  1 engines (hash)   2 heartbeat (string)   3 fenced (set)
ARGV  1 engine   2 seen: what has stood among the engines for its time to live; '' where its heartbeat is to tell

Reply: 1, or 0 where it is alive
]]

local engines, heartbeat, fenced = KEYS[1], KEYS[2], KEYS[3]
local engine, seen = ARGV[1], ARGV[2]

if seen ~= '' and redis.call('HGET', engines, engine) ~= seen or seen == '' and redis.call('EXISTS', heartbeat) == 1 then
  return 0
end
redis.call('SCARD', fenced)
redis.call('HDEL', engines, engine)
redis.call('DEL', heartbeat)
redis.call('SADD', fenced, engine)
return 1
