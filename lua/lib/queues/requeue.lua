-- Makes a pending entry of a queue ready again, under a new id. Answers 1, or 0 where it is not pending any more, or gone.
local function requeue(stream, id)
  local entry = redis.call('XACK', stream, 'engines', id) == 1 and redis.call('XRANGE', stream, id, id)[1]
  if not entry then
    return 0
  end
  redis.call('XADD', stream, '*', unpack(entry[2]))
  redis.call('XDEL', stream, id)
  return 1
end
