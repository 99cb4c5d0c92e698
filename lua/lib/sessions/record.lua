-- Step: records the outcome of the call for its retries. Takes `old` and `failures`; see lib/sessions/session.lua.

if not old then
  redis.call('HSET', KEYS[3], ARGV[2], ARGV[3] .. '-' .. failures)
elseif #old > 1048576 then
  redis.call('HSET', KEYS[3], ARGV[2], ARGV[3] .. '!' .. failures)
else
  redis.call('HSET', KEYS[3], ARGV[2], ARGV[3] .. '+' .. failures, ARGV[2] .. ':old', old)
end
