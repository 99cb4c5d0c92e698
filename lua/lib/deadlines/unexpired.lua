--- @include "fleet/time"

-- What is left of `found`, keys and values in turn, without the values whose deadline is over. With `with_deadlines`: keys, values
-- and deadlines in turn, '' where there is none.
local function unexpired(found, scope_deadlines, clock, clock_copy, with_deadlines)
  if not found[1] then
    return found
  end
  local now = fleet_time(clock, clock_copy)
  if not with_deadlines and redis.call('ZCOUNT', scope_deadlines, '-inf', now) == 0 then
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
        if with_deadlines then
          kept[#kept + 1] = deadline or ''
        end
      end
    end
  end
  return kept
end
