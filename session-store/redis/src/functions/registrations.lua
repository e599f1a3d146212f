-- Bindings of an AOR: b:{tenant:hash}, one field per binding (keyed hash of its identity) with `place:end:cseq:hash of Call-ID:` before the
-- sealed record. A binding ends at `end`. The field `-` remembers removed ones, `identity,hash of Call-ID,cseq,end;` each (identity `*`:
-- all), for as long as a copy of the REGISTER that made them may still be under way. The key ends with the last of all these.
-- Who offers a capability: cap:{tenant:hash}, AOR hashes with the end of their last binding as score. It may name too many: what an AOR
-- offers stands in its bindings.

local REMOVED = '-'

local function load_aor(key, at)
  local all = call('HGETALL', key)
  local live, removed = {}, {}
  for i = 1, #all, 2 do
    if all[i] == REMOVED then
      for identity, call_id, cseq, stop in string.gmatch(all[i + 1], '([^,;]*),([^,;]*),(%d+),(%d+);') do
        if tonumber(stop) > at then
          removed[#removed + 1] = { identity = identity, call_id = call_id, cseq = tonumber(cseq), stop = tonumber(stop) }
        end
      end
    else
      local place, stop, cseq, call_id, record = string.match(all[i + 1], '^(%d+):(%d+):(%d+):(%x*):(.*)$')
      if not place then
        check_layout('binding', string.sub(all[i + 1], 1, 8))
      end
      if tonumber(stop) > at then
        live[#live + 1] = { identity = all[i], place = tonumber(place), stop = tonumber(stop), cseq = tonumber(cseq), call_id = call_id, record = record }
      end
    end
  end
  table.sort(live, function(a, b) return a.place < b.place end)
  return live, removed
end

local function bindings_reply(live)
  local reply = {}
  for i, b in ipairs(live) do
    reply[2 * i - 1] = int(b.stop)
    reply[2 * i] = b.record
  end
  return { 'bindings', reply }
end

local function store_aor(key, live, removed, at)
  call('DEL', key)
  local last = 0
  for i, b in ipairs(live) do
    call('HSET', key, b.identity, i .. ':' .. int(b.stop) .. ':' .. int(b.cseq) .. ':' .. b.call_id .. ':' .. b.record)
    last = math.max(last, b.stop)
  end
  local gone = {}
  for i, r in ipairs(removed) do
    gone[i] = r.identity .. ',' .. r.call_id .. ',' .. int(r.cseq) .. ',' .. int(r.stop) .. ';'
    last = math.max(last, r.stop)
  end
  if #gone > 0 then
    call('HSET', key, REMOVED, table.concat(gone))
  end
  if last > 0 then
    call('PEXPIRE', key, int(last - at))
  end
end

local function remember_removed(removed, identity, call_id, cseq, stop, limit)
  for j = #removed, 1, -1 do
    if removed[j].identity == identity and removed[j].call_id == call_id then
      table.remove(removed, j)
    end
  end
  removed[#removed + 1] = { identity = identity, call_id = call_id, cseq = cseq, stop = stop }
  while #removed > limit do
    table.remove(removed, 1)
  end
end

-- One binding of a REGISTER. False where it is stale (RFC 3261 section 10.3 step 7: the same Call-ID needs a higher CSeq; an equal one is the
-- same request again).
local function update_binding(live, removed, new, at, remembered_until, limit)
  local adds = new.stop > at
  for _, r in ipairs(removed) do
    if (r.identity == '*' or r.identity == new.identity) and r.call_id == new.call_id
      and (new.cseq < r.cseq or (new.cseq == r.cseq and adds)) then
      return false
    end
  end
  local place
  for j, b in ipairs(live) do
    if b.identity == new.identity then
      place = j
    end
  end
  local old = place and live[place]
  if old and old.call_id == new.call_id and new.cseq < old.cseq then
    return false
  end
  if adds then
    live[place or (#live + 1)] = new
  elseif old then
    table.remove(live, place)
    if old.call_id ~= new.call_id then
      remember_removed(removed, old.identity, old.call_id, old.cseq, remembered_until, limit)
    end
    remember_removed(removed, new.identity, new.call_id, new.cseq, remembered_until, limit)
  end
  return true
end

local function remove_bindings(live, removed, call_id, cseq, remembered_until, limit)
  for _, list in ipairs({ live, removed }) do
    for _, b in ipairs(list) do
      if b.call_id == call_id and cseq < b.cseq then
        return false
      end
    end
  end
  for _, b in ipairs(live) do
    if b.call_id ~= call_id then
      remember_removed(removed, b.identity, b.call_id, b.cseq, remembered_until, limit)
    end
  end
  remember_removed(removed, '*', call_id, cseq, remembered_until, limit)
  return true
end

register('read_bindings', function(keys, args)
  return bindings_reply((load_aor(keys[1], now())))
end, { 'no-writes' })

-- 3-5 nonce, 6 kind (q query, a remove all, u update), 7 limit of bindings, 8 limit of capabilities of one, 9 how long a removed one is
-- remembered, 10 limit of those; a: 11 hash of Call-ID, 12 CSeq; u: 11... six each: identity, end (0 removes), CSeq, hash of Call-ID,
-- number of capabilities, record
register('register', function(keys, args)
  if not nonce_rises(keys, args) then
    return { 'nonce' }
  end
  local key, kind, at = keys[1], args[6], now()
  local live, removed = load_aor(key, at)
  if kind == 'q' then
    return bindings_reply(live)
  end
  local remembered_until, limit = at + args[9], tonumber(args[10])
  if kind == 'a' then
    if not remove_bindings(live, removed, args[11], tonumber(args[12]), remembered_until, limit) then
      return { 'stale' }
    end
    live = {}
  else
    for i = 11, #args, 6 do
      local new = {
        identity = args[i], stop = tonumber(args[i + 1]), cseq = tonumber(args[i + 2]), call_id = args[i + 3],
        capabilities = tonumber(args[i + 4]), record = args[i + 5],
      }
      if not update_binding(live, removed, new, at, remembered_until, limit) then
        return { 'stale' }
      end
    end
  end
  if #live > tonumber(args[7]) then
    return { 'toomany' }
  end
  for _, b in ipairs(live) do
    if b.capabilities and b.capabilities > tonumber(args[8]) then
      return { 'toomany' }
    end
  end
  store_aor(key, live, removed, at)
  return bindings_reply(live)
end)

-- 3 AOR hash, 4 end
register('offer', function(keys, args)
  local at = now()
  call('ZREMRANGEBYSCORE', keys[1], '-inf', at)
  if tonumber(args[4]) > at then
    call('ZADD', keys[1], 'GT', args[4], args[3])
    live_at_least(keys[1], tonumber(args[4]) - at)
  end
  return { 'done' }
end)

-- 3 how many to skip, 4 how many
register('offered', function(keys, args)
  return { 'aors', call('ZRANGE', keys[1], '(' .. int(now()), '+inf', 'BYSCORE', 'LIMIT', args[3], args[4]) }
end, { 'no-writes' })
