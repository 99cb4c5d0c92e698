--[[
Raises the epoch of a session: what a connection sends first, so that stragglers of the one before it are fenced.

KEYS  1 session (hash)
ARGV  1 the epoch before, 0 for a new session

Reply, an array that begins with a word:
  OK epoch     the new epoch
  LOST         the session is gone, and with it what had been applied: open a new one under another id, and answer what was
               in flight with an outcome unknown
  TAKEN        there is such a session already, or its epoch is another: somebody else uses this id
]]

local epoch = redis.call('HGET', KEYS[1], 'epoch')
if (epoch or '0') ~= ARGV[1] then
  return {epoch and 'TAKEN' or 'LOST'}
end

-- When memory is full, Redis refuses a script's first write that could need some, and none after it: deletes must go on.
redis.call('HDEL', KEYS[1], '')
return {'OK', redis.call('HINCRBY', KEYS[1], 'epoch', 1)}
