--[[
The id of what is stored here. Where it has been removed: the one that the caller knows, for as long as the data lasts; after a
FLUSHDB, and where the caller knows none, a new one.

KEYS  1 store (string)   2 routes (hash)   3 routes_version (string)   4 engines (hash)
ARGV  1 known: by the caller, '' for none   2 began: the version that the routes of that store began with   3 fresh: a new id

Reply: the id, and the version that the routes begin with, '' where there are none

A FLUSHDB takes the routes, their version and the engines at once, and what is written down then begins with another version. Where
only some of them are gone, another program has removed them.
]]

local store, routes, routes_version, engines = KEYS[1], KEYS[2], KEYS[3], KEYS[4]
local known, began, fresh = ARGV[1], ARGV[2], ARGV[3]

local current = redis.call('GET', store)
local found = redis.call('HGET', routes, ':began')
if current then
  return {current, found or ''}
end
local lasts = false
if known ~= '' then
  if found then
    lasts = found == began
  else
    lasts = redis.call('EXISTS', routes_version, engines) > 0
  end
end
local id = lasts and known or fresh
redis.call('SET', store, id)
return {id, found or ''}
