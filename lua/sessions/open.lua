--[[
Raises the epoch of a session: what a connection sends first, so that stragglers of the one before it are fenced.

KEYS  1 session (hash)
ARGV  1 an epoch that has held, 0 for a new session   2 the epoch from now on, larger than any that was ever asked for
      3 milliseconds that the session outlives its engine

Reply, an array that begins with a word:
  OK epoch     the new epoch
  LOST         the session is gone, or an older one has been put in its place, and with it went what had been applied: open a new
               one under another id, and answer what was in flight with an outcome unknown
  TAKEN        there is such a session already, or a later epoch holds: whoever asks has been given up, or uses a foreign id
]]

local epoch = redis.call('HGET', KEYS[1], 'epoch')
if not epoch and ARGV[1] ~= '0' or epoch and tonumber(epoch) < tonumber(ARGV[1]) then
  return {'LOST'}
elseif epoch and (ARGV[1] == '0' or tonumber(epoch) >= tonumber(ARGV[2])) then
  return {'TAKEN'}
end

-- When memory is full, Redis refuses a script's first write that could need some, and none after it: deletes must go on.
redis.call('HDEL', KEYS[1], '')
redis.call('HSET', KEYS[1], 'epoch', ARGV[2])
redis.call('PEXPIRE', KEYS[1], ARGV[3])
return {'OK', tonumber(ARGV[2])}
