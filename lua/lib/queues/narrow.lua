-- Step: judges which queues want what of an event, where some do not want every event as it is. `narrowed` has of each such queue
-- the events that it wants, in order, each {is_over, event type, old, new}: `is_over` is that of a value whose deadline was over,
-- and '' stands for no text. `coalesces` tells whether what waits is told together. Where no queue is narrowed it is false.
-- Takes: filters_at, old, new, expired. Gives: narrowed.
--
-- In ARGV, at `filters_at`, is how many words follow, and of each narrowed queue: its number, from 1; how many words follow; '1'
-- where it coalesces, else ''; its payload; and its filter. What the payload leaves out has `null ` in its place: with the blank,
-- which no text in stored form has, it is known from a null. An event that cannot be judged here is judged again, and so it is kept
-- whole.

local narrowed = false
if filters_at then
  --- @include "queues/judge_filter" again
  narrowed = {}
  local event_type = not new and 'deleted' or old and 'updated' or 'created'
  local at, stop = filters_at + 1, filters_at + ARGV[filters_at]
  while at < stop do
    local payload, events = ARGV[at + 3], {coalesces = ARGV[at + 2] ~= ''}
    local leaves_old, leaves_new = payload ~= 'full', payload == 'keys'
    for step = expired and 1 or 2, 2 do
      local is_over = step == 1
      local old_text, new_text = old or '', new or ''
      local judged
      if is_over then
        old_text, new_text = expired, ''
        judged = judge_filter(ARGV, at + 4, 'deleted', expired, false)
      else
        judged = judge_filter(ARGV, at + 4, event_type, old, new)
      end
      if judged == 1 then
        old_text = leaves_old and old_text ~= '' and 'null ' or old_text
        new_text = leaves_new and new_text ~= '' and 'null ' or new_text
      end
      if judged then
        events[#events + 1] = {is_over, is_over and 'deleted' or event_type, old_text, new_text}
      end
    end
    narrowed[tonumber(ARGV[at])] = events
    at = at + 2 + ARGV[at + 1]
  end
end
