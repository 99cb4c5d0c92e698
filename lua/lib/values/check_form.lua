-- Step: answers FOREIGN for a text that is not known to be in stored form, unless its stored form came along. `ops_at` is where in
-- ARGV the ops begin.
-- Takes: own. Changes: old. Gives: ops_at.
--
-- Known to be in stored form are a framed object, which only this module writes, and texts so simple that a look decides.
-- Anything else has to be checked by who can: the caller.

local ops_at = own + 1
do
  local checked_text, its_form
  if ARGV[ops_at] == 'f' then
    checked_text, its_form, ops_at = ARGV[ops_at + 1], ARGV[ops_at + 2], ops_at + 3
  end
  if old then
    local first, second, third, fourth = string.byte(old, 1, 4)
    local known
    if first == 123 then
      local before_last, last = string.byte(old, -2, -1)
      known = second == 9 and third == 10 and fourth == 34 and before_last == 10 and last == 125 or old == '{}'
    elseif first == 34 then
      known = string.find(old, '^"[^"\\%c\128-\255]*"$')
    elseif old == 'null' or old == 'true' or old == 'false' or old == '[]' then
      known = true
    elseif first == 91 then
      --- @include "values/flat_array" again
      known = is_flat_array(old)
    else
      local digits, rest = string.match(old, '^%-?(%d+)(.*)$')
      known = digits and (#digits == 1 or string.byte(digits) ~= 48)
        and (rest == '' or string.find(rest, '^%.%d+$') or string.find(rest, '^%.%d+[eE][+-]?%d+$')
          or string.find(rest, '^[eE][+-]?%d+$'))
        and math.abs(tonumber(old)) < math.huge
    end
    if not known then
      if old ~= checked_text then
        return {'FOREIGN', old}
      end
      old = its_form ~= '' and its_form or old
    end
  end
end
