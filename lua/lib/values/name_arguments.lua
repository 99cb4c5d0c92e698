-- Step: names what every mutation takes; values/set.lua says what each is. `queue_count` is how many queues want the event; `own`
-- says where in ARGV the command's own arguments begin. What is not there is false, or nil.
-- Groups of words may begin the own arguments, each a mark, how many words follow, and these: `filters_at` is where the number of
-- the group `want` stands (lib/queues/narrow.lua).
-- `lineage` is what the write was made within, '' for nothing; the keys `lineages` of the queues stand behind `lineages_at`.
-- The conditions on what is stored are the arguments from `conditions_at` to `conditions_last`.
-- `cause` is what the change comes from, '' for a call: scripts that make others say so.
-- Gives: values, scopes, session, routes_version, routes_log, shadow, marks, scope_deadlines, deadlines, clock, history, revisions,
-- epoch, slot, sequence, known_version, scope, key, lane, write_id, lineage, lineages_at, ttl, generation, most_changes, made_at,
-- cause, queue_count, own, conditions_at, conditions_last, filters_at.

local values, scopes, session, routes_version, routes_log = KEYS[1], KEYS[2], KEYS[3], KEYS[4], KEYS[5]
local epoch, slot, sequence, known_version, scope, key = ARGV[1], ARGV[2], ARGV[3], ARGV[4], ARGV[5], ARGV[6]
local shadow, marks, scope_deadlines, deadlines, clock, history, revisions
local generation, most_changes, made_at, cause = nil, nil, nil, ''
local queue_count, own, lane, write_id, ttl = #KEYS - 5, 7, nil, nil, nil
local lineage, lineages_at = '', #KEYS
if queue_count > 3 and string.byte(ARGV[8] or '') == 43 then -- `+`: each queue has a fourth key; all these stand at the end
  lineages_at = #KEYS - (queue_count - (queue_count % 4 == 1 and 5 or queue_count % 4 == 3 and 7 or 0)) / 4
  queue_count = lineages_at - 5
end
if queue_count % 3 > 0 then -- five keys more stand at the end, or seven, and routes_version in the place of what is not there
  local extra = queue_count % 3 == 2 and 5 or 7
  queue_count = queue_count - extra
  shadow, marks, scope_deadlines, deadlines, clock, history, revisions = unpack(KEYS, lineages_at - extra + 1, lineages_at)
  shadow = shadow ~= routes_version and shadow
  scope_deadlines = scope_deadlines ~= routes_version and scope_deadlines
end
if queue_count > 0 then
  queue_count, lane, write_id = queue_count / 3, ARGV[7], ARGV[8]
  own = 9 + 2 * queue_count
  if lineages_at < #KEYS then
    lineage, own = ARGV[own], own + 1
  end
end
if scope_deadlines then
  ttl, own = ARGV[own], own + 1
end
if history then
  generation, most_changes, made_at, own = ARGV[own], ARGV[own + 1], ARGV[own + 2], own + 3
end
local conditions_at, conditions_last = false, false
if ARGV[own] == 'if' then
  conditions_at, conditions_last = own + 2, own + 1 + ARGV[own + 1]
  own = conditions_last + 1
end
local filters_at = false
if ARGV[own] == 'want' then
  filters_at, own = own + 1, own + 2 + ARGV[own + 1]
end
