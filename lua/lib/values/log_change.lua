-- Step: writes the change into the scope's change log, and in front of it that of a value whose deadline is over. An entry has the
-- id `<revision>-<milliseconds since 1970>`. `revisions` has the latest revision as `last`, that of each value as `k<key>`, and as
-- `generation` which time the log is switched on. Old and new are fields of their own, as in lib/queues/enqueue.lua.
-- Takes: key, history, revisions, generation, most_changes, made_at, cause, old, new, expired. Changes: revision, begins_anew.
--
-- Once something has been written, an entry that the stream refuses must not fail the call. It does so where its id is not the
-- highest, since somebody has meddled with one of the two keys: then the log begins with this change.

if revision then
  local function add(why, event_type, before, after)
    revision = revision + 1
    local id = string.format('%d', revision) .. '-' .. made_at
    local added = redis.pcall('XADD', history, 'MAXLEN', '~', most_changes, id, 'k', key, 't', event_type, 'o', before or '',
      'n', after or '', 'c', why)
    if type(added) == 'table' then
      redis.call('UNLINK', history)
      redis.call('XADD', history, id, 'k', key, 't', event_type, 'o', before or '', 'n', after or '', 'c', why)
    end
  end

  if begins_anew then
    redis.call('UNLINK', history, revisions)
    redis.call('HSET', revisions, 'generation', generation)
    begins_anew = false
  end
  if expired then
    add('expired', 'deleted', expired, false)
  end
  add(cause, not new and 'deleted' or old and 'updated' or 'created', old, new)
  local last = string.format('%d', revision)
  if new then
    redis.call('HSET', revisions, 'last', last, 'k' .. key, last)
  else
    redis.call('HDEL', revisions, 'k' .. key)
    redis.call('HSET', revisions, 'last', last)
  end
end
