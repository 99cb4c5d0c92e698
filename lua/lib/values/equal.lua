--- @include "values/place"

-- -1, 0 or 1, as the first of two number texts is smaller, equal or larger: integers exactly; as doubles, where one is a float.
local function compare_numbers(left, right)
  local find, sub = string.find, string.sub
  if #left < 16 and #right < 16 or find(left, '[.eE]') or find(right, '[.eE]') then
    local number, other = tonumber(left), tonumber(right)
    return number < other and -1 or number > other and 1 or 0
  elseif left == right then
    return 0
  end
  local left_negative, right_negative = string.byte(left) == 45, string.byte(right) == 45
  if left_negative ~= right_negative then
    return left_negative and -1 or 1
  elseif left_negative then
    left, right = sub(right, 2), sub(left, 2)
  end
  return (#left < #right or #left == #right and left < right) and -1 or 1
end

-- Whether the value from `start` to `stop` of a text is equal to another text; both in normal form, framed or not. Members may be
-- in any order; of one name the last counts. The first text is walked once, whatever its size; the other is taken apart.
local function is_equal(text, start, stop, other)
  local byte, find, sub = string.byte, string.find, string.sub
  if start == 1 and stop == #text then
    if text == other then
      return true
    end
  elseif stop - start + 1 == #other and sub(text, start, stop) == other then
    return true
  end
  local BRACKET, BRACE, QUOTE = 91, 123, 34
  local kind, wanted_kind = byte(text, start), byte(other)
  local are_numbers = wanted_kind <= 57 and wanted_kind ~= QUOTE and kind <= 57 and kind ~= QUOTE
  if are_numbers then
    return compare_numbers(sub(text, start, stop), other) == 0
  elseif kind ~= wanted_kind or kind ~= BRACKET and kind ~= BRACE then
    return false
  end

  -- What a text has at `at`: a scalar's text, or a table of what is in it; and where it ends.
  local function tree_of(source, at)
    local first = byte(source, at)
    if first ~= BRACKET and first ~= BRACE then
      local last = end_of_value(source, at)
      return sub(source, at, last), last
    end
    local tree = {kind = first, count = 0}
    at = find(source, '[^\t\n]', at + 1)
    while byte(source, at) ~= first + 2 do -- the closing one
      local name = tree.count + 1
      if first == BRACE then
        local name_stop = end_of_value(source, at)
        name, at = sub(source, at, name_stop), name_stop + 2
      end
      local value, last = tree_of(source, at)
      if not tree[name] then
        tree.count = tree.count + 1
      end
      tree[name] = value
      at = find(source, '[^,\n]', last + 1)
    end
    return tree, at
  end

  -- Whether what the text has at `at` is equal to a tree; and where it ends, where `needs_end` or it is.
  local function matches(at, tree, needs_end)
    local first = byte(text, at)
    if type(tree) == 'string' then
      local tree_kind = byte(tree)
      if first == QUOTE or first > 57 then -- no number
        local last = at + #tree - 1
        if tree_kind == first and sub(text, at, last) == tree then
          return true, last
        end
        return false, needs_end and end_of_value(text, at)
      end
      local last = end_of_value(text, at)
      return tree_kind <= 57 and tree_kind ~= QUOTE and compare_numbers(sub(text, at, last), tree) == 0, last
    elseif tree.kind ~= first then
      return false, needs_end and end_of_value(text, at)
    end

    local same, is_object, found, count, wrong = true, first == BRACE, {}, 0, 0
    at = find(text, '[^\t\n]', at + 1)
    while byte(text, at) ~= first + 2 do
      local name = count + 1
      if is_object then
        local name_stop = end_of_value(text, at)
        name, at = sub(text, at, name_stop), name_stop + 2
      end
      local wanted, last = tree[name], nil
      if wanted and same then
        local agrees
        agrees, last = matches(at, wanted, needs_end or is_object)
        if not is_object then
          count, same = count + 1, agrees
        elseif found[name] == nil then
          count, wrong, found[name] = count + 1, wrong + (agrees and 0 or 1), agrees
        elseif found[name] ~= agrees then
          wrong, found[name] = wrong + (agrees and -1 or 1), agrees
        end
      else
        same = false
      end
      if not same and not needs_end then
        return false
      end
      at = find(text, '[^,\n]', (last or end_of_value(text, at)) + 1)
    end
    return same and wrong == 0 and count == tree.count, at
  end

  return (matches(start, (tree_of(other, 1)), false))
end
