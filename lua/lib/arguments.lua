-- Step: gives `queue_count`, and `own`, where in ARGV the command's own arguments begin. Where the scope has deadlines, gives their
-- key `deadlines`, the `index` of all scopes' and `ttl`, else nil.

local queue_count = math.floor((#KEYS - 5) / 3)
local own = queue_count > 0 and 9 + 2 * queue_count or 7
local deadlines, index, ttl = KEYS[3 * queue_count + 6], KEYS[3 * queue_count + 7], nil
if deadlines then
  ttl, own = ARGV[own], own + 1
end
