-- Step: records the outcome of the call, by which lib/sessions/recognise.lua answers it when it is made again.
-- Takes: session, slot, sequence, old, failures, revision.

do
  local told = revision and failures .. '@' .. string.format('%d', revision) or failures
  if not old then
    redis.call('HSET', session, slot, sequence .. '-' .. told)
  elseif #old > 1048576 then
    redis.call('HSET', session, slot, sequence .. '!' .. told)
  else
    redis.call('HSET', session, slot, sequence .. '+' .. told, slot .. ':old', old)
  end
end
