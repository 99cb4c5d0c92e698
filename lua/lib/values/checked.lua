-- Step: answers FOREIGN for a text that is not known to be in stored form, unless its stored form came along. Takes and gives
-- `old`; gives `ops_at`, where in ARGV the ops begin.
--
-- Known to be in stored form are a framed object, which only this module writes, and texts so simple that one look decides.
-- Anything else has to be checked by who can: the caller.

local brought = ARGV[own + 1] == 'f'
local ops_at = brought and own + 4 or own + 1
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
  else
    local digits, rest = string.match(old, '^%-?(%d+)(.*)$')
    known = digits and (#digits == 1 or string.byte(digits) ~= 48)
      and (rest == '' or string.find(rest, '^%.%d+$') or string.find(rest, '^%.%d+[eE][+-]?%d+$')
        or string.find(rest, '^[eE][+-]?%d+$'))
      and math.abs(tonumber(old)) < math.huge
  end
  if not known then
    if not brought or old ~= ARGV[own + 2] then
      return {'FOREIGN', old}
    end
    old = ARGV[own + 3] ~= '' and ARGV[own + 3] or old
  end
end
