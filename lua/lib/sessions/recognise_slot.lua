-- Step: answers a call that has been applied, or whose caller has given it up, by what its slot holds; goes on with any other. What
-- a slot holds, lib/sessions/recognise.lua says.
-- Takes: session, slot, sequence, recorded.

do
  local made = recorded and string.match(recorded, '^%d+')
  if made and tonumber(made) >= tonumber(sequence) then
    local mark = string.sub(recorded, #made + 1, #made + 1)
    if made == '0' .. sequence then
      local found = mark == '+' and redis.call('HGET', session, slot .. ':old')
      return {'UNMET', string.sub(recorded, #made + 2), found, mark == '!' and 'unrecorded'}
    elseif made ~= sequence then
      return {'FENCED'}
    elseif mark == '!' then
      return {'FORGOTTEN'}
    end
    local old = mark == '+' and redis.call('HGET', session, slot .. ':old')
    return {'AGAIN', old, string.sub(recorded, #made + 2)}
  end
end
