-- Step: records the outcome of the call, by which lib/sessions/recognise.lua answers it when it is made again.
-- Takes: session, slot, sequence, old, failures.

if not old then
  redis.call('HSET', session, slot, sequence .. '-' .. failures)
elseif #old > 1048576 then
  redis.call('HSET', session, slot, sequence .. '!' .. failures)
else
  redis.call('HSET', session, slot, sequence .. '+' .. failures, slot .. ':old', old)
end
