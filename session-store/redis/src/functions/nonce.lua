-- Digest nonce counts (RFC 7616 section 3.4), each taken once, in whatever order they arrive. Where a nonce rides on another operation its
-- key is KEYS[2] and its count, request hash and lifetime are arguments 3 to 5; in a Cluster it has a slot of its own and is counted by
-- `use_nonce` before the operation.
-- The value: `count:request` of the highest one, `:taken`, which of the 32 below it were taken (a number whose lowest bit is the next lower
-- one: RFC 4303 section 3.4.3), and `:count:request` of the last others, newest first. Libraries before this one took rising counts only and
-- wrote `count:request`: of those below nothing is known, so all were taken.

local NONCE_WINDOW, NONCE_REQUESTS = 32, 4

local function remember_use(earlier, use)
  local uses = { '', use }
  for other in string.gmatch(earlier, '%d+:%x+') do
    if #uses > NONCE_REQUESTS then
      break
    end
    uses[#uses + 1] = other
  end
  return table.concat(uses, ':')
end

-- The value after a count was taken; nil where another request took it, or it is too far below to know.
local function after_use(seen, count, request)
  local use = count .. ':' .. request
  if not seen then
    return use .. ':0'
  end
  local highest, last, taken, earlier = string.match(seen, '^(%d+):(%x+):?(%d*)(.*)$')
  taken = tonumber(taken) or 2 ^ NONCE_WINDOW - 1
  local ahead = count - highest
  if ahead > 0 then
    -- Exact: a shift adds no digit to a double, and what leaves the window is cut off.
    taken = ahead > NONCE_WINDOW and 0 or (taken * 2 ^ ahead + 2 ^ (ahead - 1)) % 2 ^ NONCE_WINDOW
    return use .. ':' .. int(taken) .. remember_use(earlier, highest .. ':' .. last)
  end
  if ahead == 0 and request == last then
    return seen
  end
  if ahead == 0 or -ahead > NONCE_WINDOW then
    return nil
  end
  local bit = 2 ^ (-ahead - 1)
  if math.floor(taken / bit) % 2 == 1 then
    return string.find(earlier .. ':', ':' .. use .. ':', 1, true) and seen
  end
  return highest .. ':' .. last .. ':' .. int(taken + bit) .. remember_use(earlier, use)
end

local function count_nonce(key, count, request, ttl)
  local value = after_use(call('GET', key), count, request)
  if not value then
    return false
  end
  call('SET', key, value, 'PX', ttl)
  has_written = true
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
