--[[
Raises the epoch of a session: what a connection sends first, so that stragglers of the one before it are fenced.

KEYS  1 session (hash)
ARGV  1 epoch: one that has held, 0 for a new session   2 next_epoch: from now on, larger than any that was ever asked for
      3 ttl: milliseconds that the session outlives its engine

Reply, an array that begins with a word:
  OK epoch     the new epoch
  LOST         the session is gone, or an older one has been put in its place, and with it went what had been applied: open a new
               one under another id, and answer what was in flight with an outcome unknown
  TAKEN        there is such a session already, or a later epoch holds: the caller has been given up, or uses a foreign id
]]

local session = KEYS[1]
local epoch, next_epoch, ttl = ARGV[1], ARGV[2], ARGV[3]

local current = redis.call('HGET', session, 'epoch')
if not current and epoch ~= '0' or current and tonumber(current) < tonumber(epoch) then
  return {'LOST'}
elseif current and (epoch == '0' or tonumber(current) >= tonumber(next_epoch)) then
  return {'TAKEN'}
end

-- When memory is full, Redis refuses a script's first write that could need some, and none after it: deletes must go on.
redis.call('HDEL', session, '')
redis.call('HSET', session, 'epoch', next_epoch)
redis.call('PEXPIRE', session, ttl)
return {'OK', tonumber(next_epoch)}
