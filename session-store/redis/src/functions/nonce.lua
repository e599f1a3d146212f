-- Digest nonce counts (RFC 7616 section 3.4). Where a nonce rides on another operation its key is KEYS[2] and its count, request hash and
-- lifetime are arguments 3 to 5; in a Cluster it has a slot of its own and is counted by `use_nonce` before the operation.

local function count_nonce(key, count, request, ttl)
  local seen = call('GET', key)
  if seen then
    local highest, last = string.match(seen, '^(%d+):(.*)$')
    highest = tonumber(highest)
    local number = tonumber(count)
    if number <= highest and not (number == highest and request == last) then
      return false
    end
  end
  call('SET', key, count .. ':' .. request, 'PX', ttl)
  return true
end

-- Whether the operation may go on.
local function nonce_rises(keys, args)
  if not keys[2] then
    return true
  end
  return count_nonce(keys[2], args[3], args[4], args[5])
end

register('use_nonce', function(keys, args)
  if count_nonce(keys[1], args[3], args[4], args[5]) then
    return { 'done' }
  end
  return { 'nonce' }
end)
