-- Step: gives `queue_count`, and `own`, where in ARGV the command's own arguments begin.

local queue_count = (#KEYS - 5) / 3
local own = queue_count > 0 and 9 + 2 * queue_count or 7
