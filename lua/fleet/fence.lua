--[[
Declares an engine dead: from now on it can take and end nothing. Its queues are then taken over, one by one, by fleet/takeover.lua.

KEYS  1 engines (hash)   2 heartbeat of the engine (string)   3 fenced (set of engines that have not been taken over wholly)
ARGV  1 engine   2 what has stood among the engines for its time to live; '' where its heartbeat is to tell

Reply: 1, or 0 where its heart beats
]]

if ARGV[2] ~= '' and redis.call('HGET', KEYS[1], ARGV[1]) ~= ARGV[2] or ARGV[2] == '' and redis.call('EXISTS', KEYS[2]) == 1 then
  return 0
end
redis.call('SCARD', KEYS[3])
redis.call('HDEL', KEYS[1], ARGV[1])
redis.call('DEL', KEYS[2])
redis.call('SADD', KEYS[3], ARGV[1])
return 1
