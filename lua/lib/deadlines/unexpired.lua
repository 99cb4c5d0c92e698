--- @include "fleet/time"

-- What is left of `found`, keys and values in turn, without the values whose deadline is over.
local function unexpired(found, scope_deadlines, clock)
  if not found[1] then
    return found
  end
  local now = fleet_time(clock)
  if redis.call('ZCOUNT', scope_deadlines, '-inf', now) == 0 then
    return found
  end
  local kept = {}
  for first = 1, #found, 1000 do
    local keys = {}
    for at = first, math.min(first + 998, #found - 1), 2 do
      keys[#keys + 1] = found[at]
    end
    for number, deadline in ipairs(redis.call('ZMSCORE', scope_deadlines, unpack(keys))) do
      if not deadline or tonumber(deadline) > now then
        kept[#kept + 1] = keys[number]
        kept[#kept + 1] = found[first + 2 * number - 1]
      end
    end
  end
  return kept
end
