--[[
Says that an engine lives.

KEYS  1 engines (hash)   2 heartbeat (string)
ARGV  1 engine   2 milliseconds to live   3 what people know the engine by

Reply: a word
  OK         it counts as alive for so long
  FENCED     it has been declared dead: it has to begin afresh, under another id
]]

if redis.call('HEXISTS', KEYS[1], ARGV[1]) == 0 then
  return 'FENCED'
end
-- When memory is full, hearts have to beat on: PEXPIRE needs none.
if redis.call('PEXPIRE', KEYS[2], ARGV[2]) == 0 then
  redis.call('SET', KEYS[2], ARGV[3], 'PX', ARGV[2])
end
return 'OK'
