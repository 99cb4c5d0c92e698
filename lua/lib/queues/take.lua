-- Step: gives `taken`, up to `want` entries of the stream KEYS[1] that are ready, and pending at the engine ARGV[1] from now on.
--
-- Of large events it takes fewer: a reply with all of them would keep every other caller waiting, and could be larger than an
-- engine has room for. A few are read first, then as many as are likely to fit. Where some are left, the bell rings for them.

local taken, taken_bytes, most_bytes, step = {}, 0, 1048576, 2
while #taken < want do
  local asked = math.min(step, want - #taken)
  local streams = redis.call('XREADGROUP', 'GROUP', 'engines', ARGV[1], 'COUNT', asked, 'STREAMS', KEYS[1], '>')
  -- {{stream, entries}}, but {stream, entries} where the server answers scripts as it answers a RESP3 client (fakeredis)
  local page = streams and streams[1] and (type(streams[1]) == 'table' and streams[1][2] or streams[2]) or {}
  for _, entry in ipairs(page) do
    taken[#taken + 1] = entry
    taken_bytes = taken_bytes + #(entry[2][10] or '') + #(entry[2][12] or '')
  end
  if #page < asked then
    break
  elseif taken_bytes >= most_bytes and #taken < want then
    redis.call('PUBLISH', KEYS[1], '')
    break
  end
  step = 1 + math.floor((most_bytes - taken_bytes) * #taken / (taken_bytes + 1))
end
