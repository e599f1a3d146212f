-- What stays readable of a leg of a conversation after its end: k:{label}:tenant:id, a hash beside each dialog whose domain wants that.
-- Fields: v layout, cv hash of the conversation, rt how long after the end, d state of the dialog as it was last (packed), se session
-- record (sealed), n number of the next exchange, f of the oldest one that is kept, b octets of their answers, x.. the exchanges (name and
-- state, packed). Nothing but export and erasure reads it.

local MOST_EXCHANGES, MOST_OCTETS = 256, 4 * 1024 * 1024

local function kept_key(p, s, name)
  return p .. 'k:{' .. s .. '}:' .. name
end

-- The copy that is there, of this very conversation: the same name may have had another one before.
local function kept_of(p, s, name, conversation)
  local key = kept_key(p, s, name)
  local f = call('HMGET', key, 'v', 'cv')
  if not f[1] or f[2] ~= conversation then
    return nil
  end
  check_layout('kept', f[1])
  return key
end

-- The same for work of the dialog's session, which has its name.
local function kept_of_session(p, s, name)
  local conversation = call('HGET', kept_key(p, s, name), 'cv')
  if conversation and call('HGET', p .. 'd:{' .. s .. '}:' .. name, 'cv') == conversation then
    return kept_of(p, s, name, conversation)
  end
  return nil
end

-- As it is told when it is over: ended, and without the 2xx.
local function packed_end(state)
  return cmsgpack.pack({ state[1], 'd', state[3], state[4], state[5], state[6], '', state[8] })
end

-- A dialog was made, or changed: the copy follows.
local function keep_dialog(p, s, name, conversation, state, retention, ttl, is_new)
  local key = not is_new and kept_of(p, s, name, conversation)
  if not key then
    key = kept_key(p, s, name)
    call('DEL', key)
    call('HSET', key, 'v', LAYOUT, 'cv', conversation, 'n', 0, 'f', 0, 'b', 0)
    local session = call('HGET', p .. 's:{' .. s .. '}:' .. name, 'r')
    if session then
      call('HSET', key, 'se', session)
    end
  end
  call('HSET', key, 'd', packed_end(state), 'rt', int(retention))
  call('PEXPIRE', key, int(ttl + retention))
end

-- The dialog ended: from here on the copy has its time.
local function keep_ended(p, s, name, conversation, state)
  local key = kept_of(p, s, name, conversation)
  if key then
    call('HSET', key, 'd', packed_end(state))
    call('PEXPIRE', key, call('HGET', key, 'rt'))
  end
end

local function keep_session(p, s, name, record)
  local key = kept_of_session(p, s, name)
  if key then
    call('HSET', key, 'se', record)
  end
end

-- An exchange was answered. The oldest ones give way.
local function keep_exchange(p, s, name, hash, state)
  local key = kept_of_session(p, s, name)
  if not key then
    return
  end
  local f = call('HMGET', key, 'n', 'f', 'b')
  local n, first, octets = tonumber(f[1]), tonumber(f[2]), tonumber(f[3])
  call('HSET', key, 'x' .. int(n), cmsgpack.pack({ hash, state }))
  n, octets = n + 1, octets + #state[10]
  while n - first > MOST_EXCHANGES or (octets > MOST_OCTETS and first < n) do
    local gone = call('HGET', key, 'x' .. int(first))
    octets = octets - #cmsgpack.unpack(gone)[2][10]
    call('HDEL', key, 'x' .. int(first))
    first = first + 1
  end
  call('HSET', key, 'n', int(n), 'f', int(first), 'b', int(octets))
end

-- State of the dialog, sealed session or '', exchanges.
local function load_kept(key)
  local f = call('HMGET', key, 'd', 'se', 'n', 'f')
  local exchanges = {}
  for i = tonumber(f[4]), tonumber(f[3]) - 1 do
    exchanges[#exchanges + 1] = cmsgpack.unpack(call('HGET', key, 'x' .. int(i)))
  end
  return cmsgpack.unpack(f[1]), text(f[2]), exchanges
end
