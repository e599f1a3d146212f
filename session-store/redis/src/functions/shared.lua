-- What every function uses. Arguments begin with the key prefix and the slot label; all names of one call share the hash tag {label}.
-- Owners travel as `pod:epoch:boot` in decimal, because a number of Lua is no 64-bit integer. Times are milliseconds of this server.

local LAYOUT = '1'

-- Whether the function under way has written what is replicated for certain: HSET is, whatever stood there.
local has_written = false

local function call(command, ...)
  if command == 'HSET' then
    has_written = true
  end
  return redis.call(command, ...)
end

local function now()
  local t = redis.call('TIME')
  return t[1] * 1000 + math.floor(t[2] / 1000)
end

local function int(n)
  return string.format('%.0f', n)
end

-- A layout that this library does not know is refused, never guessed.
local function check_layout(what, v)
  if v ~= LAYOUT then
    error({ err = 'LAYOUT ' .. what .. ' ' .. tostring(v) })
  end
end

-- Compares decimal numbers without leading zeros of any length.
local function less(a, b)
  if #a ~= #b then
    return #a < #b
  end
  return a < b
end

local function owner_parts(o)
  return string.match(o, '^(%d+):(%d+):(%d+)$')
end

-- The same pod in an epoch that ended.
local function is_earlier_life(before, after)
  local pod, epoch = owner_parts(before)
  local pod2, epoch2 = owner_parts(after)
  return pod == pod2 and less(epoch, epoch2)
end

-- Lets a key live at least so long.
local function live_at_least(key, ttl)
  if call('PTTL', key) < ttl then
    call('PEXPIRE', key, ttl)
  end
end

local function text(value)
  return value or ''
end

-- WAIT and WAITAOF count what their own connection wrote (Redis before 7.2: all that anybody did). A write that changes nothing makes them
-- wait for what somebody else wrote: the end of the key again or, where it has none, or there is no key, one beside it that goes at once
-- (which a slot that is being moved away refuses).
local function mark(p, key)
  local stop = call('PEXPIRETIME', key)
  if stop > 0 then
    call('PEXPIREAT', key, int(stop))
    return
  end
  local name = p .. 'w:' .. string.match(key, '{.-}')
  call('SET', name, '')
  call('DEL', name)
end

-- Each function that may write has another form, `_durable`: what it tells may be waited for.
local function register(name, callback, flags)
  flags = flags or {}
  redis.register_function({ function_name = LIBRARY .. '_' .. name, callback = callback, flags = flags })
  if flags[1] == 'no-writes' then
    return
  end
  local function durable(keys, args)
    has_written = false
    local reply = callback(keys, args)
    if not has_written then
      mark(args[1], keys[1])
    end
    return reply
  end
  redis.register_function({ function_name = LIBRARY .. '_' .. name .. '_durable', callback = durable, flags = flags })
end
