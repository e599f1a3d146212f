-- Takes over what an edge left under one slot label. The owner field of each record is the fence: it moves here, in one step.

local function ended_life(owner, pod, epoch)
  local pod2, epoch2 = owner_parts(owner)
  return pod2 == pod and not less(epoch, epoch2)
end

-- 3 from, 4 by, 5 limit, 6 lease
register('adopt', function(keys, args)
  local p, s, by = args[1], args[2], args[4]
  local key, at, limit = keys[1], now(), tonumber(args[5])
  local pod, epoch = owner_parts(args[3])
  local items, taken, more = {}, 0, 0
  call('ZREMRANGEBYSCORE', key, '-inf', at)
  for _, member in ipairs(call('ZRANGE', key, 0, -1)) do
    local of, kind, name = string.match(member, '^(%d+)|(%a)|(.*)$')
    if of and not less(epoch, of) then
      local target = p .. kind .. ':{' .. s .. '}:' .. name
      local left = call('PTTL', target)
      local f = call('HMGET', target, 'v', 'o')
      -- An equal epoch with another boot is a life of which the store lost the last write: it is adopted, too.
      if f[2] ~= by then
        if taken >= limit then
          more = 1
          break
        end
        call('ZREM', key, member)
      end
      if f[1] and f[2] and f[2] ~= by and ended_life(f[2], pod, epoch) then
        check_layout('record', f[1])
        local item
        if kind == 'm' and call('HGET', target, 'st') == 'p' then
          call('HSET', target, 'o', by, 'lu', int(at + args[6]))
          local g = call('HMGET', target, 'dk', 'iv', 'lg')
          item = { 'm', name, g[1], text(g[2]), text(g[3]) }
        elseif kind == 'd' and call('HGET', target, 'ph') ~= 'd' then
          call('HSET', target, 'o', by)
          item = { 'd', name, dialog_state(target) }
        elseif kind == 'x' and is_owned_exchange(target) then
          call('HSET', target, 'o', by, 'ad', '1')
          local e = exchange_state(target)
          item = { 'x', name, e }
        end
        if item then
          own(p, s, by, kind, name, left, at)
          taken = taken + 1
          items[taken] = item
        end
      end
    end
  end
  return { 'adopted', items, more }
end, { 'allow-oom' })
