-- Steps are joined into a script where they stand, and are no functions: a script's functions are made anew at every call.
--
-- Step: answers a call that has been applied, or that nobody waits for, and goes on with any other.
--
-- The session KEYS[3] is a hash of the engine that calls, or of whoever calls the engine: `epoch`, a field per slot, and
-- `<slot>:old` with the value that the slot's last call found. A slot's field is `<seq><mark><failures>`; the mark says where the
-- old value is: `+` recorded, `-` there was none, `!` too large to be recorded.

local held = redis.call('HMGET', KEYS[3], 'epoch', ARGV[2])
if held[1] ~= ARGV[1] then
  return {held[1] and 'FENCED' or 'LOST'}
end
local recorded = held[2] and string.match(held[2], '^%d+')
if recorded and tonumber(recorded) >= tonumber(ARGV[3]) then
  local mark = string.sub(held[2], #recorded + 1, #recorded + 1)
  if recorded ~= ARGV[3] then
    return {'FENCED'}
  elseif mark == '!' then
    return {'FORGOTTEN'}
  end
  local old = mark == '+' and redis.call('HGET', KEYS[3], ARGV[2] .. ':old')
  return {'AGAIN', old, string.sub(held[2], #recorded + 2)}
end
