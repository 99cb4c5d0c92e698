-- Whether a text is an array in stored form whose items are numbers, `true`, `false`, `null` and strings of printable ASCII without
-- escapes: of up to 32 items, since to look at more takes Redis longer than being called again with what the caller has checked.
local function is_flat_array(text)
  local length, at = #text, 2
  if length > 512 then
    return false
  end
  for _ = 1, 32 do
    local first = string.byte(text, at)
    local _, last
    if first == 34 then
      _, last = string.find(text, '^"[^"\\%c\128-\255]*"', at)
    elseif first == 116 or first == 110 then
      _, last = string.find(text, first == 116 and '^true' or '^null', at)
    elseif first == 102 then
      _, last = string.find(text, '^false', at)
    elseif first then
      local digits = first == 45 and at + 1 or at
      _, last = string.find(text, string.byte(text, digits) == 48 and '^0' or '^%d+', digits)
      if last and string.byte(text, last + 1) == 46 then
        _, last = string.find(text, '^%.%d+', last + 1)
      end
      if last and last - digits > 300 then -- it may be more than a double holds
        return false
      end
    end
    local following = last and string.byte(text, last + 1)
    if following == 93 then
      return last + 1 == length
    elseif following ~= 44 then
      return false
    end
    at = last + 2
  end
  return false
end
