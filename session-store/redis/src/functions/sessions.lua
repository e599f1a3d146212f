-- Sessions of MCP legs: s:{label}:tenant:hash, fields v layout, ver version, r record (sealed).

local function load_session(key)
  local f = call('HMGET', key, 'v', 'ver', 'r')
  if not f[1] then
    return nil
  end
  check_layout('session', f[1])
  return f
end

-- 3 lifetime from now on; it is only moved forward
register('read_session', function(keys, args)
  local f = load_session(keys[1])
  if not f then
    return { 'unknown' }
  end
  live_at_least(keys[1], tonumber(args[3]))
  return { 'session', f[2], f[3] }
end, { 'allow-oom' })

-- 3 version (0 = must not exist), 4 record, 5 lifetime
register('write_session', function(keys, args)
  local f = load_session(keys[1])
  if (f and f[2] or '0') ~= args[3] then
    if f then
      return { 'sessionconflict', f[2], f[3] }
    end
    return { 'unknown' }
  end
  local version = int(args[3] + 1)
  call('HSET', keys[1], 'v', LAYOUT, 'ver', version, 'r', args[4])
  call('PEXPIRE', keys[1], args[5])
  keep_session(args[1], args[2], string.sub(keys[1], #session_key(args[1], args[2], '') + 1), args[4])
  return { 'version', version }
end)

-- The record and its journal go. Gives whether there was a record, and how many entries of the journal there were.
local function drop_session(p, s, session)
  local flights, answered = in_flight_key(p, s, session), answered_key(p, s, session)
  local gone = 0
  for _, index in ipairs({ flights, answered }) do
    for _, hash in ipairs(call('ZRANGE', index, 0, -1)) do
      local key = exchange_key(p, s, session, hash)
      local owner = call('HGET', key, 'o')
      if owner then
        disown(p, s, owner, 'x', session .. ':' .. hash)
      end
      gone = gone + call('DEL', key)
    end
  end
  call('DEL', flights, answered)
  return call('DEL', session_key(p, s, session)), gone
end

-- 3 session, 4 only where it ends within so many milliseconds, or ''
register('drop_session', function(keys, args)
  local f = load_session(keys[1])
  if f and args[4] ~= '' and call('PTTL', keys[1]) > tonumber(args[4]) then
    return { 'session', f[2], f[3] }
  end
  if drop_session(args[1], args[2], args[3]) == 1 then
    return { 'done' }
  end
  return { 'unknown' }
end, { 'allow-oom' })
