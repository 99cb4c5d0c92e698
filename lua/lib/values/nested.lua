--- @include "values/edit"
--- @include "values/members"

-- The new text of what `level` of the names of the op at `at` lead to; nil where nothing is to be there, or nil and why the op
-- fails. Every object on the way is written anew.
local function nested(at, level, text)
  local kind, levels = ARGV[at], tonumber(ARGV[at + 1])
  local payload = at + 2 + levels
  if level == levels and kind == 'r' then
    return nil
  elseif level == levels and kind ~= 'm' then
    local first, last, piece = edit(kind, ARGV[payload], text, text and 1, text and #text, levels)
    if not piece then
      return nil, last, text and string.byte(text)
    end
    return first and string.sub(text, 1, first - 1) .. piece .. string.sub(text, last + 1) or piece
  elseif kind == 'r' and (not text or string.byte(text) ~= 123) then
    return text or nil
  end
  local names, values = members_of(text)
  if level == levels then
    for pair = payload + 1, payload + 2 * ARGV[payload], 2 do
      if not values[ARGV[pair]] then
        names[#names + 1] = ARGV[pair]
      end
      values[ARGV[pair]] = ARGV[pair + 1]
    end
    return object_of(names, values)
  end
  local name = ARGV[at + 2 + level]
  local target = values[name]
  if kind == 'r' and not target then
    return text
  end
  local new, failure, found = nested(at, level + 1, target)
  if failure then
    return nil, failure, found
  elseif kind == 'r' and new == target then
    return text
  end
  if not target then
    names[#names + 1] = name
  end
  values[name] = new
  return object_of(names, values)
end
