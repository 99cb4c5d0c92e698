-- Step: gives `taken`, up to `want` entries of the stream KEYS[1] that are ready, and pending at the engine ARGV[1] from now on.

local taken = {}
if want > 0 then
  local streams = redis.call('XREADGROUP', 'GROUP', 'engines', ARGV[1], 'COUNT', want, 'STREAMS', KEYS[1], '>')
  if streams and streams[1] then
    -- {{stream, entries}}, but {stream, entries} where the server answers scripts as it answers a RESP3 client (fakeredis)
    taken = type(streams[1]) == 'table' and streams[1][2] or streams[2]
  end
end
