-- Step: judges which queues want what of an event, where some do not want every event as it is. `narrowed` has of each such queue
-- the events that it wants, in order, each {is_over, event type, old, new}: `is_over` is that of a value whose deadline was over,
-- and '' stands for no text. `coalesces` tells whether what waits is told together. Where no queue is narrowed it is false.
-- Takes: filters_at, old, new, expired. Gives: narrowed.
--
-- In ARGV, at `filters_at`, is how many words follow, and of each narrowed queue: its head, and, unless the filter is simple, how
-- many words follow, and those that lib/queues/judge_filter.lua reads. The head is five letters and the queue's number, from 1:
-- the payload (f, n, k), whether it coalesces (1, 0), the event types that it wants (`0` for all, else `0` and 1 for created, 2
-- for updated, 4 for deleted), `0` and the number of paths, and s for a simple filter, else g. Each word costs a tenth of a
-- microsecond.
--
-- What the payload leaves out has `null ` in its place: with the blank, which no text in stored form has, it is known from a null.
-- An event that cannot be judged here is judged again, and so it is kept whole.

local narrowed = false
if filters_at then
  narrowed = {}
  local at, stop = filters_at + 1, filters_at + ARGV[filters_at]
  while at <= stop do
    local payload, coalesces, types, paths, kind = string.byte(ARGV[at], 1, 5)
    local number, is_simple, events = tonumber(string.sub(ARGV[at], 6)), kind == 115, {coalesces = coalesces == 49}
    types, paths = types - 48, paths - 48
    for step = expired and 1 or 2, 2 do
      local is_over = step == 1
      local before, after = old, new
      if is_over then
        before, after = expired, false
      end
      local event_type, flag = 'updated', 2
      if not after then
        event_type, flag = 'deleted', 4
      elseif not before then
        event_type, flag = 'created', 1
      end
      local judged = nil
      if types == 0 or math.floor(types / flag) % 2 == 1 then
        if is_simple and paths == 0 then
          judged = 1
        elseif not is_simple or not before or not after
          or string.byte(before, 3) ~= 10 or string.byte(before, 2) ~= 9 or string.byte(before, -2) ~= 10
          or string.byte(after, 3) ~= 10 or string.byte(after, 2) ~= 9 or string.byte(after, -2) ~= 10 then
          --- @include "queues/judge_filter" again
          judged = judge_filter(ARGV, is_simple and at + 1 or at + 2, paths, is_simple, before, after)
        elseif before ~= after then -- two framed objects, and members at their tops: most often, and so without a function
          for line_at = at + 1, at + paths do
            local first, new_first = string.find(before, ARGV[line_at], 1, true), string.find(after, ARGV[line_at], 1, true)
            if first and new_first then
              local last = string.find(before, '\n', first + 1, true) - 1
              local new_last = string.find(after, '\n', new_first + 1, true) - 1
              last = string.byte(before, last) == 44 and last - 1 or last
              new_last = string.byte(after, new_last) == 44 and new_last - 1 or new_last
              if last - first ~= new_last - new_first
                or string.sub(before, first, last) ~= string.sub(after, new_first, new_last) then
                judged = 1
              end
            elseif first or new_first then
              judged = 1
            end
          end
        end
      end
      if judged then
        local old_text, new_text = before or '', after or ''
        if judged == 1 and payload ~= 102 then
          old_text = old_text ~= '' and 'null ' or ''
          new_text = payload == 107 and new_text ~= '' and 'null ' or new_text
        end
        events[#events + 1] = {is_over, event_type, old_text, new_text}
      end
    end
    narrowed[number] = events
    at = at + 1 + (is_simple and paths or 1 + ARGV[at + 1])
  end
end
