--- @include "values/equal"

-- The index, from 0, of the first condition that does not hold for `text`, in stored form, or false for a missing key; nil where
-- all do. The conditions are in `words` from `at` to `stop`: test, number of names, the names (the first as the start of its line),
-- value. `revision` is that of the value as text, nil where there is no change log. A second result says that the server cannot
-- work out an etag: then its caller has to, and asks `is` or `is_not` of that text.
--
-- One that compares the same bytes, or a scalar with a member of the root, costs one memory search; any other walks the text.
local function failing_condition(text, words, at, stop, revision)
  local byte = string.byte
  local index = 0
  while at <= stop do
    local test, levels = words[at], tonumber(words[at + 1])
    local value = words[at + 2 + levels]
    local first, last
    if text then
      first, last = place_of(text, words, at + 2, levels)
    end
    local holds
    if not first then
      holds = test == 'absent' or test == 'not_equals'
    elseif test == 'equals' then
      holds = is_equal(text, first, last, value)
    elseif test == 'not_equals' then
      holds = not is_equal(text, first, last, value)
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
      local kind = byte(text, first)
      local is_number = kind == 45 or kind >= 48 and kind <= 57
      if test == 'type' then
        local json_type = kind == 123 and 'object' or kind == 91 and 'array' or kind == 34 and 'string'
          or is_number and 'number' or kind == 110 and 'null' or 'boolean'
        holds = json_type == value
      elseif is_number then
        local order = compare_numbers(string.sub(text, first, last), value)
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
