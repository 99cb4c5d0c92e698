-- The engines that keep the time of the fleet: those whose heartbeats are counted (engines of version 0.1.0 know nothing of it).
-- Answers their longest time to live, `ttl` at least, and how many there are besides `engine`.
local function keepers_besides(engine, ttl, engines)
  local longest, keepers = ttl, 0
  local fields = redis.call('HGETALL', engines)
  for at = 1, #fields, 2 do
    local lives = string.match(fields[at + 1], '^(%d+) %d+$')
    if lives then
      longest = math.max(longest, tonumber(lives))
      keepers = keepers + (fields[at] ~= engine and 1 or 0)
    end
  end
  return longest, keepers
end
