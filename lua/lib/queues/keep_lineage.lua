-- Keeps what the write of an event that waits was made within. Nothing depends on it: so it goes by itself after a day, and does
-- not fail a write. Where there are more than events, `most`, some are of events that are gone (older engines and repairs leave
-- them behind), and it begins anew.
local function keep_lineage(lineages, write_id, lineage, most)
  redis.pcall('HSET', lineages, write_id, lineage)
  local kept = redis.pcall('HLEN', lineages)
  if type(kept) == 'number' and kept > most then
    redis.pcall('DEL', lineages)
    redis.pcall('HSET', lineages, write_id, lineage)
  end
  redis.pcall('PEXPIRE', lineages, 86400000)
end
