-- Step: gives `queue_count`; `own`, where in ARGV the command's own arguments begin; where foreign writes are watched, the key
-- `shadow` and the channel `marks`; where the scope has deadlines, their key `deadlines`, the `index` of all scopes', the `clock`
-- and `ttl`.
--
-- Where there is either, five keys more stand at the end of KEYS. In the place of those that are not there stands KEYS[4].

local extra = (#KEYS - 5) % 3 == 2
local queue_count = (#KEYS - (extra and 10 or 5)) / 3
local own = queue_count > 0 and 9 + 2 * queue_count or 7
local shadow, marks, deadlines, index, clock, ttl
if extra then
  shadow, marks, deadlines, index, clock = unpack(KEYS, #KEYS - 4)
  shadow = shadow ~= KEYS[4] and shadow
  deadlines = deadlines ~= KEYS[4] and deadlines
  if deadlines then
    ttl, own = ARGV[own], own + 1
  end
end
