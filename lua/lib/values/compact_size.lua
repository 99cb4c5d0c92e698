-- The bytes of a stored text without its frame.
local function compact_size(text)
  local size = #text
  if string.byte(text, 2) == 9 then
    size = size - 1
    local at = string.find(text, '\n', 1, true)
    while at do
      size = size - 1
      at = string.find(text, '\n', at + 1, true)
    end
  end
  return size
end
