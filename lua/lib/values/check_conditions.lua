-- Step: answers a call one of whose conditions does not hold for `old`, which is in stored form, and goes on with any other.
-- Takes: session, slot, sequence, conditions_at, conditions_last, old, key_revision.

do
  --- @include "values/judge"
  local of_value = old and key_revision and string.format('%d', key_revision) or nil
  local failing, needs_etag = failing_condition(old, ARGV, conditions_at, conditions_last, of_value)
  if needs_etag then
    return {'FOREIGN', old}
  elseif failing then
    local unmet = string.format('%d', failing)
    --- @include "sessions/record_unmet"
    return {'UNMET', unmet, old}
  end
end
