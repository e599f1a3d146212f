-- Edges and their leases: edges:{edges}, pod -> `epoch:boot:end of lease:draining:address`. The epoch of a pod never goes back while its
-- entry stands. gen:{edges} names the content of this store; ten:{edges} holds the tenant numbers, by keyed hash of the domain.

local function edge_entry(key, pod)
  local entry = call('HGET', key, pod)
  if not entry then
    return nil
  end
  local epoch, boot, stop, draining, address = string.match(entry, '^(%d+):(%d+):(%d+):(%d):(.*)$')
  if not epoch then
    check_layout('edge', string.sub(entry, 1, 8))
  end
  return { epoch = epoch, boot = boot, stop = tonumber(stop), draining = draining, address = address }
end

-- `forget`: so long after its lease its epoch is remembered.
local function put_edge(key, pod, e, forget, at)
  call('HSET', key, pod, e.epoch .. ':' .. e.boot .. ':' .. int(e.stop) .. ':' .. e.draining .. ':' .. e.address)
  live_at_least(key, e.stop + forget - at)
end

-- pod, epoch, boot, rest of the lease, draining, address; six for each. Without those whose lease ended longer ago than `listed`.
local function edges_reply(key, at, listed)
  local all = call('HKEYS', key)
  local reply = {}
  for _, pod in ipairs(all) do
    local e = edge_entry(key, pod)
    if e.stop + listed > at then
      local n = #reply
      reply[n + 1], reply[n + 2], reply[n + 3] = pod, e.epoch, e.boot
      reply[n + 4], reply[n + 5], reply[n + 6] = int(math.max(0, e.stop - at)), e.draining, e.address
    end
  end
  return reply
end

-- KEYS edges, generation; 3 how long an edge is listed, 4 how long its epoch is remembered, 5 pod, 6 boot, 7 last epoch, 8 lease,
-- 9 generation, 10 address
register('take_epoch', function(keys, args)
  local key, at, forget = keys[1], now(), tonumber(args[4])
  for _, pod in ipairs(call('HKEYS', key)) do
    if edge_entry(key, pod).stop + forget <= at then
      call('HDEL', key, pod)
    end
  end
  local last = args[7]
  local known = edge_entry(key, args[5])
  -- Two processes run under one id: the older one takes nothing back from the newer one while that lives.
  if known and last ~= '0' and less(last, known.epoch) and known.boot ~= args[6] and known.stop > at then
    return { 'fenced' }
  end
  call('SET', keys[2], args[9], 'NX')
  if known and less(last, known.epoch) then
    last = known.epoch
  end
  local epoch = int(last + 1)
  put_edge(key, args[5], { epoch = epoch, boot = args[6], stop = at + args[8], draining = '0', address = args[10] }, forget, at)
  return { 'epoch', epoch, call('GET', keys[2]), int(at), edges_reply(key, at, tonumber(args[3])) }
end)

-- KEYS edges, generation; 3 and 4 as above, 5 owner, 6 lease, 7 '1' draining, 8 address
register('heartbeat', function(keys, args)
  local key, at = keys[1], now()
  local pod, epoch, boot = owner_parts(args[5])
  local e = edge_entry(key, pod)
  local generation = call('GET', keys[2])
  if not generation or not e or e.epoch ~= epoch or e.boot ~= boot or e.stop <= at then
    return { 'fenced' }
  end
  -- What was granted is not taken back, whatever the order in which renewals arrive.
  local stop = math.max(e.stop, at + args[6])
  put_edge(key, pod, { epoch = epoch, boot = boot, stop = stop, draining = args[7], address = args[8] }, tonumber(args[4]), at)
  return { 'pods', generation, int(at), edges_reply(key, at, tonumber(args[3])) }
end, { 'allow-oom' })

-- KEYS edges; 3 and 4 as above, 5 owner
register('leave', function(keys, args)
  local key, at = keys[1], now()
  local pod, epoch, boot = owner_parts(args[5])
  local e = edge_entry(key, pod)
  if not e or e.epoch ~= epoch or e.boot ~= boot then
    return { 'fenced' }
  end
  e.stop = math.min(e.stop, at)
  put_edge(key, pod, e, tonumber(args[4]), at)
  return { 'done' }
end, { 'allow-oom' })

-- KEYS tenant numbers; 3 domain, 4 highest number. The field `next` counts; a number is never given twice.
register('tenant_number', function(keys, args)
  local number = call('HGET', keys[1], args[3])
  if number then
    return { 'tenant', number }
  end
  if tonumber(call('HGET', keys[1], 'next') or '0') >= tonumber(args[4]) then
    return { 'exhausted' }
  end
  number = int(call('HINCRBY', keys[1], 'next', 1))
  call('HSET', keys[1], args[3], number)
  return { 'tenant', number }
end)
