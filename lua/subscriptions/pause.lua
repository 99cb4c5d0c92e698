--[[
Pauses a subscription: nothing is taken from its queues from now on, at any engine and whenever they are made, until it is resumed.
What is out may be finished. Engines that do not know of a pause would go on taking: while one is there, nothing is paused.

KEYS  1 paused (hash)   2 engines (hash)   3 features (hash)   then of each of its queues: stream (stream)
ARGV  1 subscription: its id   2 settings: of the subscription   3 feature: what engines have that know of a pause

Reply, an array that begins with a word:
  OK is_new out     1 where it was not paused before, else 0; and how many deliveries are out
  LACKING engine    this engine has not the feature: nothing changed
]]

local paused, engines, features = KEYS[1], KEYS[2], KEYS[3]
local subscription, settings, feature = ARGV[1], ARGV[2], ARGV[3]

for _, engine in ipairs(redis.call('HKEYS', engines)) do
  local known = redis.call('HGET', features, engine) or ''
  if not string.find(' ' .. known .. ' ', ' ' .. feature .. ' ', 1, true) then
    return {'LACKING', engine}
  end
end
local out = 0
for number = 4, #KEYS do
  local pending = redis.pcall('XPENDING', KEYS[number], 'engines')
  out = out + (tonumber(pending[1]) or 0) -- without its group nothing is out
end
local time = redis.call('TIME')
local since_ms = string.format('%d', time[1] * 1000 + math.floor(time[2] / 1000))
local is_new = redis.call('HSETNX', paused, subscription, since_ms .. ' ' .. settings)
for number = 4, #KEYS do
  redis.call('PUBLISH', KEYS[number], 'paused')
end
return {'OK', is_new, out}
