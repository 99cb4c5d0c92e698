-- Step: reads on in the list of a lane, from the event at `at` on: up to `peek` events, each {write id, event type, old, new,
-- lineage}, '' for what is not there. They stay where they are. `scope` and `key` are those of the lane.
-- Takes: wait, lineages, lane, scope, key, peek, at. Gives: following.
--
-- It ends at one that is large, or where together they are, or that is none: 1, 1, 2, 4 and 8 are read, so that what is read in
-- vain is no more than what was of use.

--- @include "queues/next_waiting"
local following = {}
do
  local step, bytes, goes_on, from = 1, 0, true, at
  while goes_on and #following < peek do
    local items = redis.call('LRANGE', wait, 6 * from, 6 * (from + step) - 1)
    for first = 1, 6 * step, 6 do
      local event = {unpack(items, first, first + 5)}
      local size = event[6] and #event[5] + #event[6] or 0
      bytes = bytes + size
      if size > 8192 or bytes > 65536 or not is_of_lane(event, lane) or event[2] ~= scope or event[3] ~= key then
        goes_on = false
        break
      end
      local lineage = string.byte(event[1]) == 43 and redis.pcall('HGET', lineages, event[1])
      following[#following + 1] = {event[1], event[4], event[5], event[6], type(lineage) == 'string' and lineage or ''}
    end
    from, step = from + step, math.min(#following, peek - #following)
  end
end
