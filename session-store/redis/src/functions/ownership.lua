-- What each edge owns under a slot label, so that another finds it after its death: own:{label}:pod, members `epoch|kind|name`, each with
-- the end of the resource as its score. Kinds: m pending call, d dialog, x exchange in flight.

local function own_key(p, s, pod)
  return p .. 'own:{' .. s .. '}:' .. pod
end

local function own(p, s, owner, kind, name, ttl, at)
  local pod, epoch = owner_parts(owner)
  local key = own_key(p, s, pod)
  -- What has ended is swept now and then: an adopter sweeps it anyway, and the set ends with its last member.
  if at % 8 == 0 then
    call('ZREMRANGEBYSCORE', key, '-inf', at)
  end
  call('ZADD', key, at + ttl, epoch .. '|' .. kind .. '|' .. name)
  live_at_least(key, ttl)
end

local function disown(p, s, owner, kind, name)
  local pod, epoch = owner_parts(owner)
  call('ZREM', own_key(p, s, pod), epoch .. '|' .. kind .. '|' .. name)
end
