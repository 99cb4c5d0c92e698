-- Step: makes the pending entry `id` of the stream KEYS[1] ready again, under a new id; counts in `released`.

if redis.call('XACK', KEYS[1], 'engines', id) == 1 then
  local entry = redis.call('XRANGE', KEYS[1], id, id)[1]
  if entry then
    redis.call('XADD', KEYS[1], '*', unpack(entry[2]))
    redis.call('XDEL', KEYS[1], id)
    released = released + 1
  end
end
