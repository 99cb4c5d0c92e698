-- Step: a value whose deadline is over is gone: `old` becomes false, and `expired` what it was. Takes `deadlines`, `index`, `clock`,
-- `ttl`, `old`. Gives `deadline` (of the key until now), `is_over`, `new_deadline`, and `bound`, what the index has of the scope; false where
-- there is none.

local expired, deadline, is_over, new_deadline, bound = false, false, false, false, false
if deadlines then
  deadline = tonumber(redis.call('ZSCORE', deadlines, ARGV[6]) or nil)
  local lifetime = tonumber(ttl)
  if deadline or lifetime then
    --- @include "fleet/now"
    is_over = deadline and deadline <= now
    if is_over then
      expired, old = old, false
    end
    new_deadline = lifetime and now + lifetime or ttl == 'keep' and old and deadline
  end
  if lifetime then
    bound = tonumber(redis.call('ZSCORE', index, ARGV[5]) or nil)
  end
end
