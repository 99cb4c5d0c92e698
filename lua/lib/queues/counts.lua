-- Step: keeps how much the queue holds, in KEYS[3]. Takes `entries`, `bytes`, `ended`.

if entries > 0 then
  redis.call('HSET', KEYS[3], 'entries', entries, 'bytes', bytes)
elseif ended > 0 then
  redis.call('HDEL', KEYS[3], 'entries', 'bytes')
end
