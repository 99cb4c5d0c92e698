-- The text of the sum of two number texts; nil where an integer operand or the result leaves its range. Integers are exact
-- over -2^63 .. 2^64-1, floats are the shortest text that reads back.
local function number_sum(left, right)
  local byte, char, find, format = string.byte, string.char, string.find, string.format
  local match, rep, sub = string.match, string.rep, string.sub

  -- Whether decimal digits without leading zeros lie in the range of 64 bits.
  local function in_range(negative, digits)
    local limit = negative and '9223372036854775808' or '18446744073709551615'
    return #digits < #limit or #digits == #limit and digits <= limit
  end

  -- An integer text as two halves of its sign, upper * 10^10 + lower; nil beyond 64 bits.
  local function halves(text)
    local minus, digits = match(text, '^(%-?)(%d+)$')
    if not in_range(minus == '-', digits) then
      return nil
    end
    local sign = minus == '-' and -1 or 1
    return sign * (tonumber(sub(digits, 1, -11)) or 0), sign * tonumber(sub(digits, -10))
  end

  local left_float, right_float = find(left, '[.eE]'), find(right, '[.eE]')
  local upper, lower, upper_by, lower_by
  if not left_float then
    upper, lower = halves(left)
  end
  if not right_float then
    upper_by, lower_by = halves(right)
  end
  if not left_float and not upper or not right_float and not upper_by then
    return nil
  end

  if not left_float and not right_float then
    upper, lower = upper + upper_by, lower + lower_by
    local negative = upper < 0 or upper == 0 and lower < 0
    if negative then
      upper, lower = -upper, -lower
    end
    if lower < 0 then
      upper, lower = upper - 1, lower + 1e10
    elseif lower >= 1e10 then
      upper, lower = upper + 1, lower - 1e10
    end
    local digits = upper > 0 and format('%d%010d', upper, lower) or format('%d', lower)
    return in_range(negative, digits) and (negative and '-' .. digits or digits) or nil
  end

  -- `-0` is the integer 0, `-0.0` is not: adding 0 tells them apart.
  local number, by = tonumber(left), tonumber(right)
  local sum = (left_float and number or number + 0) + (right_float and by or by + 0)
  if sum == 0 then
    return 1 / sum < 0 and '-0.0' or '0.0'
  elseif math.abs(sum) == math.huge then
    return nil
  end
  local sign = sum < 0 and '-' or ''
  sum = math.abs(sum)

  -- 15 digits hold every decimal of up to 15 digits, so if they read back, the shortest is among them; not so below the
  -- normal range. From 16 digits on the nearest decimal may miss where its neighbour hits, at powers of two.
  local text
  for digits = sum < 2.2250738585072014e-308 and 1 or 15, 17 do
    text = format('%.' .. (digits - 1) .. 'e', sum)
    if tonumber(text) == sum then
      break
    end
    local mantissa, exponent = match(text, '^(.*)(e.*)$')
    local last = byte(mantissa, -1)
    local above, below = sub(mantissa, 1, -2) .. char(last + 1) .. exponent, sub(mantissa, 1, -2) .. char(last - 1) .. exponent
    if last < 57 and tonumber(above) == sum then
      text = above
      break
    elseif last > 48 and tonumber(below) == sum then
      text = below
      break
    end
  end

  -- spelled as msgspec does: positional from 0.00001 up to 10^16, else with an exponent
  local first, rest, exponent = match(text, '^(%d)%.?(%d*)e(.*)$')
  rest, exponent = match(rest, '^(.-)0*$'), tonumber(exponent)
  if exponent < -5 or exponent > 15 then
    return sign .. first .. (rest ~= '' and '.' .. rest or '') .. 'e' .. format('%d', exponent)
  elseif exponent < 0 then
    return sign .. '0.' .. rep('0', -exponent - 1) .. first .. rest
  elseif #rest <= exponent then
    return sign .. first .. rest .. rep('0', exponent - #rest) .. '.0'
  end
  return sign .. first .. sub(rest, 1, exponent) .. '.' .. sub(rest, exponent + 1)
end
