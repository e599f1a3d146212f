-- What every function uses. Arguments begin with the key prefix and the slot label; all names of one call share the hash tag {label}.
-- Owners travel as `pod:epoch:boot` in decimal, because a number of Lua is no 64-bit integer. Times are milliseconds of this server.

local LAYOUT = '1'

local function call(...)
  return redis.call(...)
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

local function register(name, callback, flags)
  redis.register_function({ function_name = LIBRARY .. '_' .. name, callback = callback, flags = flags or {} })
end
