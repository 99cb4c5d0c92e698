-- Step: records that a condition of the call did not hold (`unmet`, its index as text), by which lib/sessions/recognise.lua answers
-- it when it is made again.
-- Takes: session, slot, sequence, old, unmet.

if not old then
  redis.call('HSET', session, slot, '0' .. sequence .. '-' .. unmet)
elseif #old > 1048576 then
  redis.call('HSET', session, slot, '0' .. sequence .. '!' .. unmet)
else
  redis.call('HSET', session, slot, '0' .. sequence .. '+' .. unmet, slot .. ':old', old)
end
