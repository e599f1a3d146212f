-- What belongs to a conversation: cd:{tenant:hash}, members `label:tenant:id` of its dialogs with the end of each as score. It may name
-- too many: a dialog says itself which conversation it is of. Everything of a leg (dialog, session, journal) lies in one slot.

-- 3 how long it is listed, 4... members
register('list_legs', function(keys, args)
  local at, ttl = now(), tonumber(args[3])
  call('ZREMRANGEBYSCORE', keys[1], '-inf', at)
  for i = 4, #args do
    call('ZADD', keys[1], 'GT', at + ttl, args[i])
  end
  live_at_least(keys[1], ttl)
  return { 'done' }
end)

register('legs', function(keys, args)
  return { 'legs', call('ZRANGE', keys[1], '(' .. int(now()), '+inf', 'BYSCORE') }
end, { 'no-writes' })

-- 3... members
register('unlist_legs', function(keys, args)
  for i = 3, #args do
    call('ZREM', keys[1], args[i])
  end
  return { 'done' }
end, { 'allow-oom' })

local function journal(p, s, session)
  local at, hashes = now(), {}
  for _, key in ipairs({ in_flight_key(p, s, session), answered_key(p, s, session) }) do
    for _, hash in ipairs(call('ZRANGE', key, '(' .. int(at), '+inf', 'BYSCORE')) do
      hashes[#hashes + 1] = hash
    end
  end
  return hashes
end

-- 3 dialog (its session has the same name), 4 conversation
register('export_leg', function(keys, args)
  local p, s, name = args[1], args[2], args[3]
  local f = load_dialog(keys[1])
  if not f or f.er == '1' or f.cv ~= args[4] then
    return { 'unknown' }
  end
  local dialog = {}
  if f.ph ~= 'd' then
    dialog = dialog_state(keys[1])
  end
  local session = load_session(session_key(p, s, name))
  local exchanges = {}
  for _, hash in ipairs(journal(p, s, name)) do
    local key = exchange_key(p, s, name, hash)
    local v = call('HGET', key, 'v')
    if v then
      check_layout('exchange', v)
      exchanges[#exchanges + 1] = { hash, exchange_state(key) }
    end
  end
  return { 'leg', dialog, session and session[3] or '', exchanges }
end, { 'no-writes' })

-- 3 dialog, 4 conversation, 5 lifetime of the tombstone
register('erase_leg', function(keys, args)
  local p, s, name = args[1], args[2], args[3]
  local f = load_dialog(keys[1])
  if not f or f.er == '1' or f.cv ~= args[4] then
    return { 'erased', 0 }
  end
  local had_session, exchanges = drop_session(p, s, name)
  local gone = had_session + exchanges
  if f.ph ~= 'd' then
    tombstone(p, s, name, f, args[5])
    gone = gone + 1
  end
  call('HDEL', keys[1], 'pe', 'cv', 'pr', 'sr', 'ci')
  call('HSET', keys[1], 'er', '1')
  call('DEL', requests_key(p, s, name))
  return { 'erased', gone }
end, { 'allow-oom' })
