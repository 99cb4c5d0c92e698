-- Step: answers a call whose new text would be larger than `most_bytes`, without the spaces in it, and goes on with any other.
-- Takes: new, most_bytes.

if #new > most_bytes then
  --- @include "values/compact_size"
  local size = compact_size(new)
  if size > most_bytes then
    return {'TOO_LARGE', size}
  end
end
