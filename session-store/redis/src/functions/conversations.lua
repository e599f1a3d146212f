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

-- What is told of a leg: state of its dialog or {}, sealed session or '', exchanges; and whether its dialog and its copy are there. Nil: it
-- is not of this conversation.
local function told(p, s, name, conversation)
  local f = load_dialog(dialog_key(p, s, name))
  local is_dialog = f and f.er ~= '1' and f.cv == conversation
  local kept = kept_of(p, s, name, conversation)
  if not is_dialog and not kept then
    return nil
  end
  local leg = { f = f, is_dialog = is_dialog, kept = kept, dialog = {}, session = '', exchanges = {} }
  if kept then
    leg.dialog, leg.session, leg.exchanges = load_kept(kept)
  end
  if is_dialog and f.ph ~= 'd' then
    leg.dialog = dialog_state(dialog_key(p, s, name))
  end
  -- By the same name there may be another conversation now: its session and its journal are not ours.
  leg.has_session = is_dialog or not f
  if not leg.has_session then
    return leg
  end
  local session, at = load_session(session_key(p, s, name)), int(now())
  if session then
    leg.session = session[3]
  end
  for _, index in ipairs({ in_flight_key(p, s, name), answered_key(p, s, name) }) do
    for _, hash in ipairs(call('ZRANGE', index, '(' .. at, '+inf', 'BYSCORE')) do
      local key = exchange_key(p, s, name, hash)
      local v = call('HGET', key, 'v')
      if v then
        check_layout('exchange', v)
        -- What was answered stands among what is kept.
        if not kept or is_owned_exchange(key) then
          leg.exchanges[#leg.exchanges + 1] = { hash, exchange_state(key) }
        end
      end
    end
  end
  return leg
end

-- 3 dialog (its session has the same name), 4 conversation
register('export_leg', function(keys, args)
  local leg = told(args[1], args[2], args[3], args[4])
  if not leg then
    return { 'unknown' }
  end
  return { 'leg', leg.dialog, leg.session, leg.exchanges }
end, { 'no-writes' })

-- 3 dialog, 4 conversation, 5 lifetime of the tombstone. As many records go as an export tells.
register('erase_leg', function(keys, args)
  local p, s, name = args[1], args[2], args[3]
  local leg = told(p, s, name, args[4])
  if not leg then
    return { 'erased', 0 }
  end
  if leg.has_session then
    drop_session(p, s, name)
  end
  if leg.is_dialog then
    if leg.f.ph ~= 'd' then
      tombstone(p, s, name, leg.f, args[5])
    end
    call('HDEL', keys[1], 'pe', 'cv', 'pr', 'sr', 'ci')
    call('HSET', keys[1], 'er', '1')
    call('DEL', requests_key(p, s, name))
  end
  if leg.kept then
    call('DEL', leg.kept)
  end
  return { 'erased', #leg.exchanges + (leg.session ~= '' and 1 or 0) + (#leg.dialog > 0 and 1 or 0) }
end, { 'allow-oom' })
