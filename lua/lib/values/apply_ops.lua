-- Step: applies update ops, as iii_state/values/apply.py does, to the last byte. `old` is in stored form, or false. `document` is
-- the new stored form; `failures` are words.
-- Takes: old, ops_at, ops_last. Gives: document, failures, is_done.
--
-- A framed object has each top-level member on a line of its own, and a raw newline nowhere else, so a member is found with
-- one memory search and edited by cutting and joining text. Every cut or join of a large text costs a pass over all its bytes.
-- So edits of different members are collected, and the new text is made of all of them at once.

--
-- Most updates have one op, which sets a member at the top of an object or adds an integer to it: that is done without the
-- functions, which cost more than all of it.

local document, failures = old or '{}', ''
local is_done = false
if ops_last == ops_at + 3 and ARGV[ops_at + 1] == '1' and string.byte(document) == 123 then
  local kind, head, value = ARGV[ops_at], ARGV[ops_at + 2], ARGV[ops_at + 3]
  local line = (kind == 'i' or kind == 's') and string.find(document, head, 1, true)
  if line then
    local start = line + #head
    local stop = string.find(document, '\n', start, true) - 1
    if string.byte(document, stop) == 44 then -- a comma
      stop = stop - 1
    end
    if kind == 'i' then
      local number = string.sub(document, start, stop)
      value = #number < 16 and #value < 16 and string.find(number, '^%-?%d+$') and not string.find(value, '[.eE]')
        and string.format('%d', number + value)
    end
    if value then
      document, is_done = string.sub(document, 1, start - 1) .. value .. string.sub(document, stop + 1), true
    end
  end
end
if not is_done then
  local absent = not old
  local pending, edits, added = nil, nil, nil -- head -> true; {first byte, last byte, text in their place} …; lines to be added

  -- Makes one text of the document and the edits that were collected.
  local function flush_edits()
    if not pending then
      return
    end
    if added[1] then
      local lines = table.concat(added, ',')
      if document == '{}' then
        document = '{\t' .. lines .. '\n}'
      else
        edits[#edits + 1] = {#document - 1, #document - 2, ',' .. lines}
      end
    end
    if edits[1] then
      table.sort(edits, function(left, right) return left[1] < right[1] end)
      local pieces, from = {}, 1
      for _, edit in ipairs(edits) do
        pieces[#pieces + 1] = string.sub(document, from, edit[1] - 1)
        pieces[#pieces + 1] = edit[3]
        from = edit[2] + 1
      end
      pieces[#pieces + 1] = string.sub(document, from)
      document = table.concat(pieces)
    end
    pending = nil
  end

  -- Where the value of the member whose line begins with `head` begins and ends; nil where there is none.
  local function find_member(head)
    if pending and pending[head] then
      flush_edits()
    end
    local line = string.find(document, head, 1, true)
    if not line then
      return nil
    end
    local start = line + #head
    local stop = string.find(document, '\n', start, true) - 1
    if string.byte(document, stop) == 44 then -- a comma
      stop = stop - 1
    end
    return start, stop
  end

  -- Puts a text in the place of some bytes of a member's value, or of a member that is not there (no `first`). What is the only
  -- edit is made at once.
  local function put(head, first, last, text, only)
    if not only then
      if not pending then
        pending, edits, added = {}, {}, {}
      end
      pending[head] = true
      if first then
        edits[#edits + 1] = {first, last, text}
      else
        added[#added + 1] = head .. text
      end
    elseif first then
      document = string.sub(document, 1, first - 1) .. text .. string.sub(document, last + 1)
    elseif document == '{}' then
      document = '{\t' .. head .. text .. '\n}'
    else
      document = string.sub(document, 1, -3) .. ',' .. head .. text .. '\n}'
    end
  end

  --- @include "values/edit"

  local position, at = 0, ops_at
  while at <= ops_last do
    local kind, levels = ARGV[at], tonumber(ARGV[at + 1])
    local head, payload = ARGV[at + 2], at + 2 + levels
    local following = payload + (kind == 'r' and 0 or kind == 'm' and 1 + 2 * ARGV[payload] or 1)
    local only = not pending and following > ops_last
    local root_type = string.byte(document)
    local failure, found

    if root_type ~= 123 and levels > 0 and kind == 'm' then
      document, root_type = '{}', 123
    end
    if root_type ~= 123 and (levels > 0 or kind == 'm') then
      failure, found = 'target_not_object', root_type
    elseif levels == 0 and kind == 'm' then
      for pair = payload + 1, following - 2, 2 do
        local start, stop = find_member(ARGV[pair])
        put(ARGV[pair], start, stop, ARGV[pair + 1], false)
      end
    elseif levels == 0 and kind == 'r' then
      document, pending = 'null', nil
    elseif levels == 0 then
      flush_edits()
      local start = not absent and 1 or nil
      local first, last, text = edit(kind, ARGV[payload], document, start, #document, 0)
      if not text then
        failure, found = last, root_type
      elseif first then
        document = string.sub(document, 1, first - 1) .. text .. string.sub(document, last + 1)
      else
        document = text
      end
    elseif levels == 1 and kind == 'r' then
      flush_edits()
      local start, stop = find_member(head)
      local line = start and start - #head
      if start and string.byte(document, stop + 1) == 44 then
        document = string.sub(document, 1, line - 1) .. string.sub(document, stop + 2)
      elseif line == 3 then
        document = '{}'
      elseif start then
        document = string.sub(document, 1, line - 2) .. string.sub(document, stop + 1)
      end
    else
      local start, stop = find_member(head)
      local first, last, text = start, stop, nil
      if levels == 1 and kind ~= 'm' then
        first, last, text = edit(kind, ARGV[payload], document, start, stop, 1)
        if not text then
          failure, found = last, start and string.byte(document, start)
        end
      else
        --- @include "values/nested"
        text, failure, found = nested(at, 1, start and string.sub(document, start, stop))
      end
      if text then
        put(head, first, last, text, only)
      end
    end

    if failure then
      local json_type = 'number'
      if failure ~= 'out_of_range' then
        json_type = found == 123 and 'object' or found == 91 and 'array' or found == 34 and 'string'
          or (found == 116 or found == 102) and 'boolean' or found == 110 and 'null' or 'number'
      end
      failures = failures .. position .. ' ' .. failure .. ' ' .. json_type .. ' '
    else
      absent = false
    end
    at, position = following, position + 1
  end
  flush_edits()
end
