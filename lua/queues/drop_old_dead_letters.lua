--[[
Drops dead letters that are older than they may become, by the time of the fleet, the oldest first.

KEYS  1 dead (stream)   2 dead_queues (set)   3 subscription (hash)   4 clock (hash)   5 clock_copy (string)
ARGV  1 queue   2 retention: milliseconds   3 most: dead letters

Reply, an array: how many were dropped; the function_id of one of them, '' for none; the milliseconds until the next one is too old,
0 if more may be so now, -1 if there is none
]]

local dead, dead_queues, subscription, clock, clock_copy = KEYS[1], KEYS[2], KEYS[3], KEYS[4], KEYS[5]
local queue, retention, most = ARGV[1], tonumber(ARGV[2]), tonumber(ARGV[3])

--- @include "fleet/time"
local now, _, _, offset = fleet_time(clock, clock_copy)
local dropped, function_id, following = {}, '', -1
for _, dead_letter in ipairs(redis.call('XRANGE', dead, '-', '+', 'COUNT', most)) do
  local fields, since = dead_letter[2], nil
  for at = 1, #fields - 1, 2 do
    if fields[at] == 'b' then
      since = tonumber(fields[at + 1])
    elseif fields[at] == 'f' then
      function_id = fields[at + 1]
    end
  end
  since = since or tonumber(string.match(dead_letter[1], '^%d+')) + (offset or 0) -- an engine of 0.2.0 tells Redis's time alone
  if now - since < retention then
    following = retention - (now - since)
    break
  end
  dropped[#dropped + 1] = dead_letter[1]
end
if #dropped == 0 then
  return {0, '', following}
end
redis.call('SCARD', dead_queues)
redis.call('XDEL', dead, unpack(dropped))
if redis.call('XLEN', dead) == 0 then
  redis.call('DEL', dead)
  redis.call('SREM', dead_queues, queue)
elseif #dropped == most then
  following = 0
end
if redis.call('HEXISTS', subscription, 'settings') == 1 then
  redis.call('HINCRBY', subscription, 'dropped', #dropped)
end
return {#dropped, function_id, following}
