-- Step: takes up to `most` entries of a queue that are ready; they are pending at the engine from now on.
-- Takes: stream, engine, most. Gives: taken.
--
-- Of large events it takes fewer: a reply with all of them would keep every other caller waiting, and could be larger than an
-- engine has room for. A few are read first, then as many as are likely to fit. Where some are left, a wake-up tells of them.

local taken = {}
do
  local taken_bytes, most_bytes, step = 0, 1048576, 2
  while #taken < most do
    local asked = math.min(step, most - #taken)
    local streams = redis.call('XREADGROUP', 'GROUP', 'engines', engine, 'COUNT', asked, 'STREAMS', stream, '>')
    -- {{stream, entries}}, but {stream, entries} where the server answers scripts as it answers a RESP3 client (fakeredis)
    local page = streams and streams[1] and (type(streams[1]) == 'table' and streams[1][2] or streams[2]) or {}
    for _, entry in ipairs(page) do
      taken[#taken + 1] = entry
      taken_bytes = taken_bytes + #(entry[2][10] or '') + #(entry[2][12] or '')
    end
    if #page < asked then
      break
    elseif taken_bytes >= most_bytes and #taken < most then
      redis.call('PUBLISH', stream, '')
      break
    end
    step = 1 + math.floor((most_bytes - taken_bytes) * #taken / (taken_bytes + 1))
  end
end
