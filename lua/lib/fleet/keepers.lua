-- Step: who keeps the time of the fleet: the engines whose hearts are counted (those of version 0.1.0 know nothing of it). Takes the
-- key `engines`; gives `longest`, their longest time to live and at least ARGV[2], and `keepers`, how many there are besides ARGV[1].

local longest, keepers = tonumber(ARGV[2]), 0
do
  local table_of = redis.call('HGETALL', engines)
  for at = 1, #table_of, 2 do
    local ttl = string.match(table_of[at + 1], '^(%d+) %d+$')
    if ttl then
      longest = math.max(longest, tonumber(ttl))
      keepers = keepers + (table_of[at] ~= ARGV[1] and 1 or 0)
    end
  end
end
