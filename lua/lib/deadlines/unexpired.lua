-- Step: leaves out of `found`, keys and values in turn, what is over. Takes KEYS[2], the deadlines of the scope, if it has any, and `clock`.

if KEYS[2] and found[1] then
  --- @include "fleet/now"
  if redis.call('ZCOUNT', KEYS[2], '-inf', now) > 0 then
    local kept = {}
    for first = 1, #found, 1000 do
      local names = {}
      for at = first, math.min(first + 998, #found - 1), 2 do
        names[#names + 1] = found[at]
      end
      for number, deadline in ipairs(redis.call('ZMSCORE', KEYS[2], unpack(names))) do
        if not deadline or tonumber(deadline) > now then
          kept[#kept + 1] = names[number]
          kept[#kept + 1] = found[first + 2 * number - 1]
        end
      end
    end
    found = kept
  end
end
