-- Whether six items of a list are an event of this lane.
local function is_of_lane(event, lane)
  local write, scope, key, event_type, new = event[1], event[2], event[3], event[4], event[6]
  if not new or event_type ~= 'updated' and event_type ~= 'created' and (event_type ~= 'deleted' or new ~= '') then
    return false
  elseif string.byte(lane) ~= 126 then
    if #scope .. ':' .. scope .. key ~= lane then
      return false
    end
  elseif #scope + #key < 60 then -- it would not have the name of a long one; which of those it has is not known here
    return false
  end
  -- The end of an event may be missing: then what stands in its place is the next one's write id, which is no JSON.
  local first = string.byte(new)
  return first == 34 or first == 91 or first == 123 or #new > 300 or not string.find(new, '%-[%dover]+$') or tonumber(new)
    or string.find(new, '^%s') or string.sub(write, 1, 8) == 'foreign-'
end

-- Takes the next event of a lane from its list, six items: write id, scope, key, type, old, new.
-- Where somebody has cut the list, or put another one in its place, items are skipped until six of them are an event of this lane.
-- Answers the event, nil where there is none, or none among so many items; and how many were skipped.
local function next_waiting(wait, lane)
  local event, skipped, bytes = redis.call('LPOP', wait, 6), 0, 0
  if not event then
    return nil, 0
  end
  while not is_of_lane(event, lane) do
    bytes, skipped = bytes + #(table.remove(event, 1) or ''), skipped + 1
    local following = event[5] and redis.call('LPOP', wait)
    if not following then
      return nil, skipped
    elseif skipped >= 1200 or bytes > 4194304 then
      redis.call('LPUSH', wait, following, event[5], event[4], event[3], event[2], event[1])
      return nil, skipped
    end
    event[6] = following
  end
  return event, skipped
end
