-- Step: writes down how much a queue holds, after `ended` events of it have gone.
-- Takes: busy, entries, bytes, ended.

if entries > 0 then
  redis.call('HSET', busy, 'entries', entries, 'bytes', bytes)
elseif ended > 0 then
  redis.call('HDEL', busy, 'entries', 'bytes')
end
