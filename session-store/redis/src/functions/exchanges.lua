-- The journal. One hash per exchange, x:{label}:tenant:session:hash: v layout, st (f in flight, h held: answered, and still with its owner,
-- a answered and kept, n answered and not kept), d digest of the body, rp '1' where a second execution is safe, o owner, ad '1' where it came to its owner from a dead one, e entry, rq request, fl flow of its leg, a answer, ev ta
-- up bs notes (these sealed). Two indexes per session, each with the end of an entry as its score: xf: in flight, xa: answered.

local function exchange_key(p, s, session, hash)
  return p .. 'x:{' .. s .. '}:' .. session .. ':' .. hash
end

local function in_flight_key(p, s, session)
  return p .. 'xf:{' .. s .. '}:' .. session
end

local function answered_key(p, s, session)
  return p .. 'xa:{' .. s .. '}:' .. session
end

local function session_key(p, s, session)
  return p .. 's:{' .. s .. '}:' .. session
end

local function index(key, hash, ttl, at)
  call('ZREMRANGEBYSCORE', key, '-inf', at)
  call('ZADD', key, at + ttl, hash)
  live_at_least(key, ttl)
end

-- Arguments from `i` on: session, hash, digest, '1' if repeatable, owner, entry, flow of its leg, limit in flight, lifetime, lifetime of
-- the session from now (0 leaves it), request or '', the owner that never heard of it and in whose place this entry is, or ''.
local function open_exchange(p, s, args, i, at)
  local session, hash, digest, owner = args[i], args[i + 1], args[i + 2], args[i + 4]
  local key = exchange_key(p, s, session, hash)
  local f = call('HMGET', key, 'v', 'st', 'd', 'rp', 'o', 'ad')
  local takes_over = f[2] == 'f' and f[3] == digest and f[5] == args[i + 11] and f[6] ~= '1'
  if f[1] then
    check_layout('exchange', f[1])
    local same = f[3] == digest
    if f[2] == 'f' and not takes_over then
      if not same then
        return { 'taken' }
      end
      call('HSET', key, 'fl', args[i + 6])
      return { 'inflight', f[5] }
    end
    -- Safe to run again and no answer was kept: it is a new request. So is another one by the same name.
    local kept = call('HGET', key, 'a')
    if same and not takes_over and (kept or f[4] ~= '1') then
      return { 'answered', kept and 'a' or 'n', text(kept) }
    end
  end
  local flights = in_flight_key(p, s, session)
  call('ZREMRANGEBYSCORE', flights, '-inf', at)
  if not takes_over and call('ZCARD', flights) >= tonumber(args[i + 7]) then
    return { 'full' }
  end
  -- Not before: what is refused changes nothing, and whoever adopts looks for an answer that is held.
  if f[1] and (f[2] == 'h' or takes_over) then
    disown(p, s, f[5], 'x', session .. ':' .. hash)
  end
  local ttl = tonumber(args[i + 8])
  call('DEL', key)
  call('HSET', key, 'v', LAYOUT, 'st', 'f', 'd', digest, 'rp', args[i + 3], 'o', owner, 'e', args[i + 5], 'fl', args[i + 6])
  if args[i + 10] ~= '' then
    call('HSET', key, 'rq', args[i + 10])
  end
  call('PEXPIRE', key, ttl)
  call('ZADD', flights, at + ttl, hash)
  live_at_least(flights, ttl)
  call('ZREM', answered_key(p, s, session), hash)
  own(p, s, owner, 'x', session .. ':' .. hash, ttl, at)
  local record = call('HMGET', session_key(p, s, session), 'v', 'ver', 'r')
  if not record[1] then
    return { 'opened' }
  end
  check_layout('session', record[1])
  if args[i + 9] ~= '0' then
    live_at_least(session_key(p, s, session), tonumber(args[i + 9]))
  end
  return { 'opened', record[2], record[3] }
end

-- Whether its owner still has something to do for it.
local function is_owned_exchange(key)
  local st = call('HGET', key, 'st')
  return st == 'f' or st == 'h'
end

-- What the caller needs to see of it: state, owner, then the sealed fields.
local function exchange_state(key)
  local f = call('HMGET', key, 'st', 'o', 'e', 'rq', 'fl', 'ev', 'ta', 'up', 'bs', 'a')
  for i = 1, 10 do
    f[i] = f[i] or ''
  end
  return f
end

-- The exchange in flight of this owner; else why it may not be written to.
local function load_own_exchange(key, owner)
  local f = call('HMGET', key, 'v', 'st', 'o')
  if not f[1] then
    return nil, { 'unknown' }
  end
  check_layout('exchange', f[1])
  if f[3] ~= owner then
    return nil, { 'fenced' }
  end
  if f[2] ~= 'f' and f[2] ~= 'h' then
    return nil, { 'unknown' }
  end
  return f, nil
end

-- Arguments from `i` on: session, hash, owner, '1' with an answer, answer, its lifetime, '1' if it is only held: to everybody else it is
-- answered, and it stays with its owner until its caller has the answer. Where none is kept the request stays, too: who adopts it runs it.
local function close_exchange(p, s, args, i, at)
  local session, hash, owner = args[i], args[i + 1], args[i + 2]
  local key, name = exchange_key(p, s, session, hash), session .. ':' .. hash
  local f, no = load_own_exchange(key, owner)
  if not f then
    return no
  end
  local left = tonumber(args[i + 5])
  if args[i + 3] == '1' then
    call('HSET', key, 'a', args[i + 4])
  end
  if args[i + 6] == '1' then
    left = math.max(call('PTTL', key), left)
    call('HSET', key, 'st', 'h')
    own(p, s, owner, 'x', name, left, at)
  else
    call('HSET', key, 'st', call('HEXISTS', key, 'a') == 1 and 'a' or 'n')
    -- Only a repetition asks for it now, and that brings its own.
    call('HDEL', key, 'rq')
    disown(p, s, owner, 'x', name)
    keep_exchange(p, s, session, hash, exchange_state(key))
  end
  call('PEXPIRE', key, left)
  call('ZREM', in_flight_key(p, s, session), hash)
  index(answered_key(p, s, session), hash, left, at)
  return { 'closed', text(call('HGET', key, 'fl')) }
end

-- 3-5 nonce, 6... the exchange
register('open_exchange', function(keys, args)
  if not nonce_rises(keys, args) then
    return { 'nonce' }
  end
  return { 'exchange', open_exchange(args[1], args[2], args, 6, now()) }
end)

-- 3... the end
register('close_exchange', function(keys, args)
  return close_exchange(args[1], args[2], args, 3, now())
end, { 'allow-oom' })

-- 3 owner, then name and sealed value of each note
register('note_exchange', function(keys, args)
  local f, no = load_own_exchange(keys[1], args[3])
  if not f then
    return no
  end
  for i = 4, #args, 2 do
    call('HSET', keys[1], args[i], args[i + 1])
  end
  return { 'done' }
end)

-- A message without an answer: 3-5 nonce, 6 lifetime
register('once', function(keys, args)
  if not nonce_rises(keys, args) then
    return { 'nonce' }
  end
  if call('SET', keys[1], '1', 'PX', args[6], 'NX') then
    return { 'first', 1 }
  end
  return { 'first', 0 }
end)
