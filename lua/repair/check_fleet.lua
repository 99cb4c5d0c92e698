--[[
Looks whether the keys of the fleet are of the types that they should be, and makes good what has one right value only.

KEYS  1 format (string)   2 routes (hash)   3 routes_version (string)   4 routes_log (stream)   5 engines (hash)
      6 hold (string)   7 filling (string)   8 scanning (string), the last three held by an engine for a moment
      then more keys
ARGV  1 layout: its version   2 hold_ms   3 filling_ms   4 scanning_ms: for so long each of those is held at most; it is free where
      that has been exceeded, as when Redis's clock was set back   then the type of each key

Reply: 1 where the routes are there, else 0; and an array of the numbers of the keys (from 1) that are of another type

The routes get a version that has never been before where there is none while engines stand there (none do after a FLUSHDB), and
where it is behind the log: an engine that has made no call since would take that version for the one that it knows.
]]

local format, routes, routes_version, routes_log, engines = KEYS[1], KEYS[2], KEYS[3], KEYS[4], KEYS[5]
local hold, filling, scanning = KEYS[6], KEYS[7], KEYS[8]
local layout = ARGV[1]
local hold_ms, filling_ms, scanning_ms = tonumber(ARGV[2]), tonumber(ARGV[3]), tonumber(ARGV[4])

local wrong = {}
for number, key in ipairs(KEYS) do
  local found = redis.call('TYPE', key)
  found = found.ok or found
  if found ~= 'none' and found ~= ARGV[4 + number] then
    wrong[#wrong + 1] = number
  end
end
if wrong[1] then
  return {1, wrong}
end
redis.call('SET', format, layout, 'NX')
for _, lock in ipairs({{hold, hold_ms}, {filling, filling_ms}, {scanning, scanning_ms}}) do
  local held_for = redis.call('PTTL', lock[1])
  if held_for == -1 or held_for > lock[2] then
    redis.call('DEL', lock[1])
  end
end
local version = redis.call('GET', routes_version)
local last = redis.call('XREVRANGE', routes_log, '+', '-', 'COUNT', 1)[1]
local logged = last and tonumber(string.match(last[1], '^%d+')) or 0
local is_behind = version and string.find(version, '^%d+$') and tonumber(version) < logged
if is_behind or not version and redis.call('EXISTS', engines) == 1 then
  local time = redis.call('TIME')
  redis.call('SET', routes_version, string.format('%d', math.max(logged + 1, time[1] * 1000000 + time[2])))
end
return {redis.call('HEXISTS', routes, ':began'), wrong}
