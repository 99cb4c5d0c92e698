-- The inside of a top-level member: compact text in normal form, taken apart token by token.

-- The members of an object: names in order, and name -> text. Of one name the last value counts, in the first position.
-- What is no object has none.
local function members_of(text)
  local byte, find, sub = string.byte, string.find, string.sub
  local QUOTE, BRACKET, BACKSLASH, BRACE = 34, 91, 92, 123
  local names, values = {}, {}

  -- The closing quote of the string that opens at `at`.
  local function string_end(at)
    at = find(text, '["\\]', at + 1)
    while byte(text, at) == BACKSLASH do
      at = find(text, '["\\]', at + 2)
    end
    return at
  end

  -- The last byte of the value that begins at `at`.
  local function value_end(at)
    local first = byte(text, at)
    if first == QUOTE then
      return string_end(at)
    elseif first ~= BRACE and first ~= BRACKET then
      return find(text, '[,}]', at) - 1
    end
    local depth = 0
    repeat
      at = find(text, '["%[%]{}]', at)
      local found = byte(text, at)
      if found == QUOTE then
        at = string_end(at)
      elseif found == BRACE or found == BRACKET then
        depth = depth + 1
      else
        depth = depth - 1
      end
      at = at + 1
    until depth == 0
    return at - 1
  end

  local at = text and byte(text) == BRACE and 2
  while at and byte(text, at) == QUOTE do
    local name_stop = string_end(at)
    local name, stop = sub(text, at, name_stop), value_end(name_stop + 2)
    if not values[name] then
      names[#names + 1] = name
    end
    values[name] = sub(text, name_stop + 2, stop)
    at = stop + 2
  end
  return names, values
end

-- The compact object of members; a name without a value is left out.
local function object_of(names, values)
  local members = {}
  for _, name in ipairs(names) do
    if values[name] then
      members[#members + 1] = name .. ':' .. values[name]
    end
  end
  return '{' .. table.concat(members, ',') .. '}'
end
