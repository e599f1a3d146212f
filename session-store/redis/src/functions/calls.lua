-- The guard of an INVITE, m:{label}:tenant:hash. Fields: v layout, st (p pending, c cancelled, r rejected, a accepted), dk name of the
-- dialog, o owner, tl '1' once a copy was given the 2xx, lu end of its lease, iv INVITE bytes, lg legs, rs response (the last three sealed).

local function guard_key(p, s, name)
  return p .. 'm:{' .. s .. '}:' .. name
end

local function load_guard(key)
  local f = call('HMGET', key, 'v', 'st', 'dk', 'o', 'lu', 'tl')
  if not f[1] then
    return nil
  end
  check_layout('call', f[1])
  return { st = f[2], dk = f[3], o = f[4], lu = tonumber(f[5]), tl = f[6] }
end

-- A guard whose final response is known, or that was cancelled.
local function settle(p, s, name, key, g, state, ttl)
  call('HSET', key, 'st', state)
  call('PEXPIRE', key, ttl)
  disown(p, s, g.o, 'm', name)
end

-- The call came to nothing, and its early dialog with it.
local function end_early(p, s, name, ttl)
  local f = load_dialog(dialog_key(p, s, name))
  if f and f.ph == 'e' then
    tombstone(p, s, name, f, ttl)
  end
end

-- A dialog is made of nothing, or of its early one, which comes second; else the reply.
local function refused_dialog(p, s, name)
  local f = load_dialog(dialog_key(p, s, name))
  if not f or f.ph == 'e' then
    return nil, f
  end
  return { f.ph == 'd' and 'gone' or 'fenced' }
end

-- Why the owner may not go on with the call; nil if it may.
local function refused(g, owner)
  if not g then
    return { 'unknown' }
  end
  if g.o ~= owner then
    return { 'fenced' }
  end
  if g.st == 'c' then
    return { 'cancelled' }
  end
  if g.st ~= 'p' then
    return { 'fenced' }
  end
  return nil
end

-- 3-5 nonce, 6 guard, 7 dialog, 8 sealed INVITE, 9 owner, 10 lease, 11 lifetime
register('open_call', function(keys, args)
  if not nonce_rises(keys, args) then
    return { 'nonce' }
  end
  local p, s, name, owner = args[1], args[2], args[6], args[9]
  local key, at = keys[1], now()
  local g = load_guard(key)
  if not g then
    call('HSET', key, 'v', LAYOUT, 'st', 'p', 'dk', args[7], 'o', owner, 'lu', int(at + args[10]), 'iv', args[8])
    call('PEXPIRE', key, args[11])
    own(p, s, owner, 'm', name, tonumber(args[11]), at)
    return { 'opened' }
  end
  if g.st == 'p' and g.o ~= owner and (g.lu <= at or is_earlier_life(g.o, owner)) then
    disown(p, s, g.o, 'm', name)
    call('HSET', key, 'o', owner, 'lu', int(at + args[10]))
    own(p, s, owner, 'm', name, call('PTTL', key), at)
    local early = load_dialog(dialog_key(p, s, g.dk))
    if early and early.ph == 'e' and early.o ~= owner then
      local target = dialog_key(p, s, g.dk)
      disown(p, s, early.o, 'd', g.dk)
      call('HSET', target, 'o', owner)
      own(p, s, owner, 'd', g.dk, call('PTTL', target), at)
    end
    local f = call('HMGET', key, 'iv', 'lg')
    return { 'calladopted', g.dk, text(f[1]), text(f[2]) }
  end
  if g.st == 'p' then
    return { 'pending', g.dk, g.o }
  elseif g.st == 'c' then
    return { 'wascancelled', g.dk }
  elseif g.st == 'r' then
    return { 'rejected', g.dk, text(call('HGET', key, 'rs')) }
  end
  local answer = text(call('HGET', dialog_key(p, s, g.dk), 'ab'))
  if answer ~= '' and not g.tl then
    call('HSET', key, 'tl', '1')
  end
  return { 'accepted', g.dk, answer }
end)

-- 3 owner, 4 sealed legs
register('place_legs', function(keys, args)
  local no = refused(load_guard(keys[1]), args[3])
  if no then
    return no
  end
  call('HSET', keys[1], 'lg', args[4])
  return { 'done' }
end)

-- 3 owner, 4 dialog, 5 lifetime, 6... the record
register('early_call', function(keys, args)
  local p, s, name = args[1], args[2], args[4]
  local no, early = refused(load_guard(keys[1]), args[3]), nil
  if not no then
    no, early = refused_dialog(p, s, name)
  end
  if no then
    return no
  end
  return { 'version', make_dialog(p, s, name, early, args[3], '', args, 6, tonumber(args[5]), now()) }
end)

-- 3 guard, 4 owner, 5 lifetime of the guard, 6 dialog, 7 lifetime of the record, 8 conversation or '', 9... the record; then the other
-- leg's name and its record, or nothing
register('answer_call', function(keys, args)
  local p, s, owner, name = args[1], args[2], args[4], args[6]
  local key = keys[1]
  local other = 9 + DIALOG_ARGS
  local g = load_guard(key)
  local no, early, other_early = refused(g, owner), nil, nil
  if not no then
    no, early = refused_dialog(p, s, name)
  end
  if not no and args[other] then
    no, other_early = refused_dialog(p, s, args[other])
  end
  if no then
    return no
  end
  local at, ttl = now(), tonumber(args[7])
  settle(p, s, args[3], key, g, 'a', args[5])
  call('HDEL', key, 'iv', 'lg')
  local version = make_dialog(p, s, name, early, owner, args[8], args, 9, ttl, at)
  if args[other] then
    make_dialog(p, s, args[other], other_early, owner, args[8], args, other + 1, ttl, at)
  end
  return { 'answered', version }
end)

-- The dialog of a call that this owner answered, while nobody was given the 2xx; else nil.
local function untold(p, s, g, owner)
  if not g or g.o ~= owner or g.st ~= 'a' or g.tl then
    return nil
  end
  local f = load_dialog(dialog_key(p, s, g.dk))
  return f and f.ph == 'a' and f.o == owner and f or nil
end

-- 3 guard, 4 owner, 5 lifetime of the guard, 6 sealed response
register('reject_call', function(keys, args)
  local p, s, key = args[1], args[2], keys[1]
  local g = load_guard(key)
  local answered = untold(p, s, g, args[4])
  local no = not answered and refused(g, args[4])
  if no then
    return no
  end
  settle(p, s, args[3], key, g, 'r', args[5])
  call('HDEL', key, 'iv', 'lg')
  call('HSET', key, 'rs', args[6])
  if answered then
    tombstone(p, s, g.dk, answered, args[5])
    end_other_leg(p, s, answered)
  else
    end_early(p, s, g.dk, args[5])
  end
  return { 'done' }
end, { 'allow-oom' })

-- 3 guard, 4 lifetime of the guard
register('cancel_call', function(keys, args)
  local key = keys[1]
  local g = load_guard(key)
  if not g then
    return { 'unknown' }
  end
  if g.st == 'r' or g.st == 'a' then
    return { 'toolate' }
  end
  settle(args[1], args[2], args[3], key, g, 'c', args[4])
  end_early(args[1], args[2], g.dk, args[4])
  local f = call('HMGET', key, 'iv', 'lg')
  return { 'found', g.dk, text(f[1]), g.o, text(f[2]) }
end, { 'allow-oom' })
