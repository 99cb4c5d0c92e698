-- Step: answers a call that would write over what another program has done and nobody has noticed yet. Takes `old`, `shadow`.

if shadow and redis.call('HGET', shadow, ARGV[6]) ~= old then
  return {'UNSEEN'}
end
