-- The last byte of the value that begins at `at`, in a text in normal form, framed or not.
local function end_of_value(text, at)
  local byte, find = string.byte, string.find
  local first = byte(text, at)
  if first ~= 34 and first ~= 91 and first ~= 123 then -- no string, array or object
    return (find(text, '[,%]}\n]', at) or #text + 1) - 1
  end
  local depth = 0
  repeat
    at = first == 34 and depth == 0 and at or find(text, '["%[%]{}]', at)
    local found = byte(text, at)
    if found == 34 then
      at = find(text, '["\\]', at + 1)
      while byte(text, at) == 92 do
        at = find(text, '["\\]', at + 2)
      end
    elseif found == 91 or found == 123 then
      depth = depth + 1
    else
      depth = depth - 1
    end
    at = at + 1
  until depth == 0
  return at - 1
end

-- Where a place of `text`, in stored form, begins and ends; nil for none. `levels` names lead there, at `names_at` in `words`, the
-- first as the start of its line. Nothing is below what is missing or no object. Of members of one name the last counts.
local function place_of(text, words, names_at, levels)
  if levels == 0 then
    return 1, #text
  elseif string.byte(text) ~= 123 then
    return nil
  end
  local byte, find = string.byte, string.find
  local head = words[names_at]
  local line = find(text, head, 1, true)
  if not line then
    return nil
  end
  local start = line + #head
  local stop = find(text, '\n', start, true) - 1
  if byte(text, stop) == 44 then -- a comma
    stop = stop - 1
  end
  for level = 2, levels do
    if byte(text, start) ~= 123 then
      return nil
    end
    local name, at = words[names_at + level - 1], start + 1
    local first, last
    while byte(text, at) == 34 do
      local name_stop = end_of_value(text, at)
      local value_stop = end_of_value(text, name_stop + 2)
      if name_stop - at + 1 == #name and string.sub(text, at, name_stop) == name then
        first, last = name_stop + 2, value_stop
      end
      at = value_stop + 2
    end
    if not first then
      return nil
    end
    start, stop = first, last
  end
  return start, stop
end
