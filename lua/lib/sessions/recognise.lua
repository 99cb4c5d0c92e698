-- Step: answers a call that has been applied, or whose caller has given it up, and goes on with any other.
-- Takes: session, epoch, slot, sequence.
--
-- Steps are joined into a script where they stand, and are no functions: they can answer the call, and a script's functions are
-- made anew at every call.
--
-- A session is a hash of the engine that calls, or of whoever calls the engine: `epoch`, a field per slot, and
-- `<slot>:old` with the value that the slot's last call found. A slot's field is `<sequence><mark><failures>`, and behind an `@`
-- the revision where the scope has a change log; the mark says where the old value is: `+` recorded, `-` there was none, `!` too
-- large to be recorded. Of a call one of whose conditions did not hold it is `0<sequence><mark><condition>`, with what was there
-- then: scripts of 0.2.0 take that for another call's, and answer FENCED.

do
  local held = redis.call('HMGET', session, 'epoch', slot)
  if held[1] ~= epoch then
    return {held[1] and 'FENCED' or 'LOST'}
  end
  local recorded = held[2]
  --- @include "sessions/recognise_slot"
end
