-- Step: a value whose deadline is over is gone: `old` becomes false, and `expired` what it was. `deadline` is the key's until now,
-- `new_deadline` the one from now on, `earliest` what is planned for the scope; each is false where there is none.
-- While the time of the fleet stands, a lifetime begins at the time that the engine has: it is no shorter than it was to be.
-- Where nothing is known of the time (somebody has removed the hash, whose copy is none of the keys here), nothing is over.
-- Takes: scope, key, scope_deadlines, deadlines, clock, ttl. Changes: old.
-- Gives: expired, deadline, is_over, new_deadline, earliest.

local expired, deadline, is_over, new_deadline, earliest = false, false, false, false, false
if scope_deadlines then
  deadline = tonumber(redis.call('ZSCORE', scope_deadlines, key) or nil)
  local lifetime = tonumber(string.match(ttl, '^%d+') or nil)
  if deadline or lifetime then
    --- @include "fleet/time"
    local now, stands, _, known = fleet_time(clock)
    is_over = deadline and known and deadline <= now
    if is_over then
      expired, old = old, false
    end
    if lifetime and stands then
      local told = tonumber(string.match(ttl, ' (%d+)$') or now)
      now = known and math.max(now, told) or told
    end
    new_deadline = lifetime and now + lifetime or ttl == 'keep' and old and deadline
  end
  if lifetime then
    earliest = tonumber(redis.call('ZSCORE', deadlines, scope) or nil)
  end
end
