-- Step: gives `compact_size`, the bytes of `new` without its frame.

local compact_size = #new
if string.byte(new, 2) == 9 then
  compact_size = compact_size - 1
  local at = string.find(new, '\n', 1, true)
  while at do
    compact_size = compact_size - 1
    at = string.find(new, '\n', at + 1, true)
  end
end
