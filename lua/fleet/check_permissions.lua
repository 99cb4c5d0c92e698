--[[
Tries every command that the scripts use, and leaves nothing behind. Redis does not roll a script back, so that a user may do
everything has to be known before.

KEYS  1 values (hash of a scope that is not there)   2 session (hash of none)
ARGV  nothing

Reply: the names of the commands that the user may not call, and of the keys that it may not touch
]]

local values, session = KEYS[1], KEYS[2]

local refused = {}
local function try(command, key, ...)
  local reply = redis.pcall(command, key, ...)
  local err = type(reply) == 'table' and reply.err
  if err and (string.find(err, 'NOPERM', 1, true) or string.find(err, "can't run", 1, true)
    or string.find(err, "can't access", 1, true) or string.find(err, 'ACL failure', 1, true)) then
    refused[#refused + 1] = string.find(err, 'key', 1, true) and key or command
    return false
  end
  return true
end

try('HGET', values, 'x')
try('HDEL', values, 'x')
try('EXISTS', values)
if not try('DEL', session) then
  return refused
end
for _, words in ipairs({
  {'HSET', 'x', '1'}, {'HGET', 'x'}, {'HGETALL'}, {'HMGET', 'x'}, {'HLEN'}, {'HSCAN', '0'}, {'HDEL', 'x'}, {'DEL'},
  {'SADD', 'x'}, {'SISMEMBER', 'x'}, {'SCARD'}, {'SSCAN', '0'}, {'SREM', 'x'}, {'DEL'},
  {'RPUSH', 'x'}, {'LPUSH', 'x'}, {'LLEN'}, {'LPOP'}, {'DEL'},
  {'XADD', '*', 'x', '1'}, {'XLEN'}, {'XRANGE', '-', '+'}, {'XREVRANGE', '+', '-'}, {'XDEL', '1-1'}, {'XACK', 'x', '1-1'},
  {'XTRIM', 'MAXLEN', '9'}, {'UNLINK'}, {'DEL'},
  {'ZADD', '1', 'x'}, {'ZCARD'}, {'ZSCORE', 'x'}, {'ZRANGEBYSCORE', '1', '1'}, {'ZRANGE', '0', '0'}, {'ZCOUNT', '1', '1'},
  {'ZMSCORE', 'x'}, {'ZREM', 'x'}, {'DEL'},
  {'HINCRBY', 'x', '1'}, {'HSETNX', 'x', '1'}, {'HKEYS'}, {'HEXISTS', 'x'}, {'DEL'},
  {'SET', '1'}, {'GET'}, {'INCR'}, {'PEXPIRE', '1'}, {'PTTL'}, {'TYPE'}, {'RENAME', session}, {'PUBLISH', 'x'}, {'DEL'},
}) do
  try(words[1], session, unpack(words, 2))
end
local time = redis.pcall('TIME')
if time.err then
  refused[#refused + 1] = 'TIME'
end
return refused
