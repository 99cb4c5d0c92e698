-- What an increment, append or set makes of its target, a stretch of `text`, or nothing where `start` is nil; `levels` names
-- lead to it. `kind` and `value` are as values/update.lua lists them. Answers the first and last byte to be replaced (no first
-- for a missing target) and the text in their place; without a text, the second is why the op fails.
local function edit(kind, value, text, start, stop, levels)
  if kind == 's' then
    return start, stop, value
  end
  local first = start and string.byte(text, start)
  if kind == 'i' then
    if first and first ~= 45 and (first < 48 or first > 57) then
      return nil, 'not_number', nil
    end
    local number = first and string.sub(text, start, stop) or '0'
    local sum
    if #number < 16 and #value < 16 and not string.find(number, '[.eE]') and not string.find(value, '[.eE]') then
      sum = string.format('%d', tonumber(number) + tonumber(value))
    elseif not first and string.find(value, '[.eE]') then
      sum = value
    else
      --- @include "values/sum"
      sum = number_sum(number, value)
    end
    return start, sum and stop or 'out_of_range', sum
  end
  local is_string = string.byte(value) == 34
  if not first then
    return nil, nil, levels < 2 and is_string and value or '[' .. value .. ']'
  elseif first == 91 then -- an array
    return stop, stop, (stop > start + 1 and ',' or '') .. value .. ']'
  elseif first == 110 then -- null
    return start, stop, is_string and value or '[' .. value .. ']'
  elseif first == 34 and is_string then
    return stop, stop, string.sub(value, 2)
  end
  return nil, 'type_mismatch', nil
end
