-- The index, from 0, of the first condition that does not hold for `text`, in stored form, or false for a missing key; nil where
-- all do. The conditions are in `words` from `at` to `stop`: test, number of names, the names (the first as the start of its line),
-- value. `revision` is that of the value as text, nil where there is no change log. A second result says that the server cannot
-- work out an etag: then its caller has to, and asks `is` or `is_not` of that text.
--
-- One that compares the same bytes, or a scalar with a member of the root, costs one memory search, and what any other needs is
-- made only then: it walks the text.
local function failing_condition(text, words, at, stop, revision)
  local byte, find, sub = string.byte, string.find, string.sub
  local index = 0
  while at <= stop do
    local test, levels = words[at], tonumber(words[at + 1])
    local value = words[at + 2 + levels]
    local first, last
    if text and levels == 0 then
      first, last = 1, #text
    elseif text and byte(text) == 123 then
      local head = words[at + 2]
      local line = find(text, head, 1, true)
      if line then
        first = line + #head
        last = find(text, '\n', first, true) - 1
        if byte(text, last) == 44 then -- a comma
          last = last - 1
        end
      end
    end

    local holds, needs_walk
    if first and levels > 1 then
      needs_walk = true
    elseif not first then
      holds = test == 'absent' or test == 'not_equals'
    elseif test == 'absent' or test == 'present' then
      holds = test == 'present'
    elseif test == 'revision' then
      holds = revision == value
    elseif test == 'etag' then
      if not redis.sha1hex then
        return index, true
      end
      holds = redis.sha1hex(text) == value
    elseif test == 'is' or test == 'is_not' then
      if text ~= value then
        return index, true
      end
      holds = test == 'is'
    else
      local kind, wanted = byte(text, first), byte(value)
      local is_number = kind == 45 or kind >= 48 and kind <= 57
      local size = last - first + 1
      if test == 'type' then
        local json_type = kind == 123 and 'object' or kind == 91 and 'array' or kind == 34 and 'string'
          or is_number and 'number' or kind == 110 and 'null' or 'boolean'
        holds = json_type == value
      elseif test == 'equals' or test == 'not_equals' then
        if levels == 0 and text == value or levels == 1 and size == #value and sub(text, first, last) == value then
          holds = test == 'equals'
        elseif kind ~= wanted and not is_number or kind == wanted and kind ~= 123 and kind ~= 91 and not is_number then
          holds = test == 'not_equals'
        elseif is_number and (wanted == 34 or wanted > 57) then
          holds = test == 'not_equals'
        elseif is_number and size < 16 and #value < 16 then
          holds = (tonumber(sub(text, first, last)) == tonumber(value)) == (test == 'equals')
        else
          needs_walk = true
        end
      elseif is_number and size < 16 and #value < 16 then
        local number, other = tonumber(sub(text, first, last)), tonumber(value)
        holds = number < other and (test == 'lt' or test == 'lte') or number > other and (test == 'gt' or test == 'gte')
          or number == other and (test == 'lte' or test == 'gte')
      else
        needs_walk = is_number
      end
    end

    if needs_walk then
      --- @include "values/equal"
      first, last = place_of(text, words, at + 2, levels)
      local kind = first and byte(text, first)
      local is_number = kind and (kind == 45 or kind >= 48 and kind <= 57)
      if not first then
        holds = test == 'absent' or test == 'not_equals'
      elseif test == 'absent' or test == 'present' then
        holds = test == 'present'
      elseif test == 'equals' or test == 'not_equals' then
        holds = is_equal(text, first, last, value) == (test == 'equals')
      elseif test == 'type' then
        local json_type = kind == 123 and 'object' or kind == 91 and 'array' or kind == 34 and 'string'
          or is_number and 'number' or kind == 110 and 'null' or 'boolean'
        holds = json_type == value
      elseif is_number then
        local order = compare_numbers(sub(text, first, last), value)
        holds = order < 0 and (test == 'lt' or test == 'lte') or order > 0 and (test == 'gt' or test == 'gte')
          or order == 0 and (test == 'lte' or test == 'gte')
      end
    end
    if not holds then
      return index
    end
    at, index = at + 3 + levels, index + 1
  end
  return nil
end
