-- Step: reads how far the scope's change log has come. `revision` is its latest one, false where the scope has no log, and
-- `key_revision` that of the value, false where there is none, or it is older than the log. `begins_anew` where there is no log of
-- this generation yet: then the revision that stands for what was not logged is counted, and what an earlier log left is to go.
-- Nothing is written here, and keys of a wrong type fail here.
-- Takes: key, history, revisions, generation. Gives: revision, key_revision, begins_anew.

local revision, key_revision, begins_anew = false, false, false
if history then
  local held = redis.call('HMGET', revisions, 'last', 'generation', 'k' .. key)
  revision, begins_anew = tonumber(held[1] or nil), held[2] ~= generation
  if redis.call('XLEN', history) > 0 and not revision then -- somebody has removed `revisions`
    revision = tonumber(string.match(redis.call('XREVRANGE', history, '+', '-', 'COUNT', 1)[1][1], '^%d+'))
  end
  if not begins_anew then
    key_revision = tonumber(held[3] or nil)
  elseif revision then
    revision = revision + 1
  end
  revision = revision or 0
end
