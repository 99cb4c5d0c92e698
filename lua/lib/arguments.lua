-- Step: gives `queue_count`; `own`, where in ARGV the command's own arguments begin; and, where foreign writes are watched, the
-- key `shadow` and the channel `marks`.

local extra = (#KEYS - 5) % 3
local queue_count = (#KEYS - 5 - extra) / 3
local own = queue_count > 0 and 9 + 2 * queue_count or 7
local shadow, marks = extra == 2 and KEYS[#KEYS - 1], KEYS[#KEYS]
