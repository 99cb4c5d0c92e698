--- @include "values/flat_array"
--- @include "values/place" again
--- @include "values/judge" again

-- Whether a text is certain to be in stored form, as lib/values/check_form.lua knows: what other programs write need not be.
local function is_stored_form(text)
  local first, second, third, fourth = string.byte(text, 1, 4)
  if first == 123 then
    local before_last, last = string.byte(text, -2, -1)
    return second == 9 and third == 10 and fourth == 34 and before_last == 10 and last == 125 or text == '{}'
  elseif first == 34 then
    return string.find(text, '^"[^"\\%c\128-\255]*"$')
  elseif first == 91 then
    return text == '[]' or is_flat_array(text)
  end
  return text == 'null' or text == 'true' or text == 'false' or string.find(text, '^%-?[1-9]%d*$') or text == '0'
end

-- Whether the text of a place is another one in `new` than in `old`, both in stored form or false for none. `levels` names lead
-- there, at `at` in `words`. Values of different lengths are not looked at.
local function differs(old, new, words, at, levels)
  local old_first, old_last, new_first, new_last
  if old then
    old_first, old_last = place_of(old, words, at, levels)
  end
  if new then
    new_first, new_last = place_of(new, words, at, levels)
  end
  if not old_first or not new_first then
    return old_first ~= new_first
  end
  return old_last - old_first ~= new_last - new_first
    or string.sub(old, old_first, old_last) ~= string.sub(new, new_first, new_last)
end

-- Whether an event with these texts (false for none) matches a filter: 1, or nil where it does not. 0 where that cannot be told
-- here, since a text is another program's, or since the server cannot work out an etag. In `words`, from `at` on, are so many
-- paths, each the number of its names and the names (the first as the start of its line), or, where the filter `is_simple`, only
-- one name each; then, unless it is, the number of words, and the words, of the conditions on the old text, and the same of those
-- on the new one (lib/values/judge.lua).
local function judge_filter(words, at, paths, is_simple, old, new)
  if old and not is_stored_form(old) or new and not is_stored_form(new) then
    return 0
  end
  local is_changed = paths == 0
  for _ = 1, paths do
    local levels = 1
    if not is_simple then
      levels, at = tonumber(words[at]), at + 1
    end
    is_changed = is_changed or old ~= new and differs(old, new, words, at, levels)
    at = at + levels
  end
  if not is_changed then
    return nil
  elseif is_simple then
    return 1
  end
  local judged = 1
  for _, text in ipairs({old, new}) do
    local last = at + words[at]
    local failing, needs_etag = failing_condition(text, words, at + 1, last)
    if needs_etag then
      judged = 0
    elseif failing then
      return nil
    end
    at = last + 1
  end
  return judged
end
