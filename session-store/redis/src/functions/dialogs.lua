-- Dialogs: d:{label}:tenant:id. Fields: v layout, ver version, ph phase (e early, a accepted, c confirmed, t terminating, d tombstone),
-- er '1' where nothing of it may be told, ci and co highest CSeq in and out, o owner, pr and sr keyed hashes of principal and source, pe
-- name of the other leg, cv hash of the conversation, r record, ab 2xx bytes until the ACK, fl flow and source (the last three sealed).
-- In-dialog requests for replay: q:{label}:tenant:id, CSeq -> `end:` while it is served, `end:` and the sealed response after that.

local function dialog_key(p, s, name)
  return p .. 'd:{' .. s .. '}:' .. name
end

local function requests_key(p, s, name)
  return p .. 'q:{' .. s .. '}:' .. name
end

local function load_dialog(key)
  local f = call('HMGET', key, 'v', 'ver', 'ph', 'ci', 'co', 'o', 'pr', 'sr', 'pe', 'cv', 'er')
  if not f[1] then
    return nil
  end
  check_layout('dialog', f[1])
  return { ver = f[2], ph = f[3], ci = f[4], co = f[5], o = f[6], pr = f[7], sr = f[8], pe = f[9], cv = f[10] or '', er = f[11] }
end

-- What the caller needs to see of it: hot fields, then sealed ones.
local function dialog_state(key)
  local f = call('HMGET', key, 'ver', 'ph', 'ci', 'co', 'o', 'r', 'ab', 'fl')
  for i = 1, 8 do
    f[i] = f[i] or ''
  end
  return f
end

-- A record as arguments from `i` on: phase, CSeq in, CSeq out, hash of principal, hash of source, other leg, record, 2xx, flow, how long it
-- stays readable after its end.
local DIALOG_ARGS = 10

local function larger(a, b)
  if a == '' then
    return b
  end
  if b == '' or tonumber(a) > tonumber(b) then
    return a
  end
  return b
end

-- A field that is not there takes no memory.
local function set_or_drop(key, field, value)
  if value == '' then
    call('HDEL', key, field)
  else
    call('HSET', key, field, value)
  end
end

local function add_field(fields, field, value)
  if value ~= '' then
    fields[#fields + 1] = field
    fields[#fields + 1] = value
  end
end

-- Where a dialog of a conversation is to be readable after its end, a copy follows what is written.
local function keep_written(p, s, name, conversation, args, i, ttl, is_new)
  local retention = tonumber(args[i + 9])
  if retention > 0 and conversation ~= '' then
    keep_dialog(p, s, name, conversation, dialog_state(dialog_key(p, s, name)), retention, ttl, is_new)
  end
end

-- A writer's new record. CSeq only rises, a dialog that is being ended stays so, owner and flow are the store's, whatever the writer read
-- before.
local function replace_dialog(p, s, name, f, args, i, ttl, at)
  local key = dialog_key(p, s, name)
  local phase = args[i]
  if f.ph == 't' then
    phase = 't'
  end
  f.ver = int(f.ver + 1)
  call('HSET', key, 'ver', f.ver, 'ph', phase, 'ci', larger(args[i + 1], f.ci), 'co', larger(args[i + 2], f.co), 'pr', args[i + 3],
    'r', args[i + 6])
  set_or_drop(key, 'pe', args[i + 5])
  set_or_drop(key, 'ab', args[i + 7])
  call('PEXPIRE', key, ttl)
  own(p, s, f.o, 'd', name, ttl, at)
end

-- Writes a dialog that `owner` owns, over its early one `f` if there is one. Gives the version.
local function make_dialog(p, s, name, f, owner, conversation, args, i, ttl, at)
  local key = dialog_key(p, s, name)
  if f then
    if f.o ~= owner then
      disown(p, s, f.o, 'd', name)
      f.o = owner
    end
    replace_dialog(p, s, name, f, args, i, ttl, at)
    call('HSET', key, 'o', owner)
    set_or_drop(key, 'cv', conversation)
    keep_written(p, s, name, conversation, args, i, ttl, true)
    return f.ver
  end
  call('DEL', requests_key(p, s, name))
  local fields = { 'v', LAYOUT, 'ver', '1', 'ph', args[i], 'ci', args[i + 1], 'co', args[i + 2], 'pr', args[i + 3], 'sr', args[i + 4],
    'o', owner, 'r', args[i + 6], 'fl', args[i + 8] }
  add_field(fields, 'pe', args[i + 5])
  add_field(fields, 'cv', conversation)
  add_field(fields, 'ab', args[i + 7])
  call('HSET', key, unpack(fields))
  call('PEXPIRE', key, ttl)
  own(p, s, owner, 'd', name, ttl, at)
  keep_written(p, s, name, conversation, args, i, ttl, true)
  return '1'
end

-- The other leg of a call ends with this one.
local function end_other_leg(p, s, f)
  if not f.pe or f.pe == '' then
    return
  end
  local key = dialog_key(p, s, f.pe)
  local other = call('HMGET', key, 'v', 'ph')
  if not other[1] then
    return
  end
  check_layout('dialog', other[1])
  -- No new version: what a writer has read of it still holds.
  if other[2] ~= 'd' and other[2] ~= 't' then
    call('HSET', key, 'ph', 't')
  end
end

-- Turns a live dialog into its tombstone and returns what it was. `cseq`: of the request that ends it, or nil.
local function tombstone(p, s, name, f, ttl, cseq)
  local key = dialog_key(p, s, name)
  local was = dialog_state(key)
  f.ver = int(f.ver + 1)
  was[1] = f.ver
  call('HDEL', key, 'r', 'ab', 'fl')
  if cseq then
    was[3] = cseq
    call('HSET', key, 'ph', 'd', 'ver', f.ver, 'ci', cseq)
  else
    call('HSET', key, 'ph', 'd', 'ver', f.ver)
  end
  call('PEXPIRE', key, ttl)
  disown(p, s, f.o, 'd', name)
  if f.cv ~= '' then
    keep_ended(p, s, name, f.cv, was)
  end
  return was
end

-- The remembered request of that CSeq: nil, or its response ('' while it is served).
local function remembered(key, cseq, at)
  local entry = call('HGET', key, cseq)
  if not entry then
    return nil
  end
  local stop, response = string.match(entry, '^(%d+):(.*)$')
  if tonumber(stop) <= at then
    return nil
  end
  return response
end

-- What a request gets that is not let in: another principal's, one that was seen, one that comes too late.
local function refused_request(f, requests, principal, source, cseq, at)
  if not f then
    return { 'unknown' }
  end
  if f.er == '1' then
    return { 'gone' }
  end
  if f.pr ~= principal or (source ~= '' and source ~= f.sr) then
    return { 'principal' }
  end
  local known = remembered(requests, cseq, at)
  if known and known ~= '' then
    return { 'replay', known }
  elseif f.ph == 'd' then
    return { 'gone' }
  elseif known then
    return { 'inprogress' }
  end
  return nil
end

local function remember(key, cseq, response, ttl, limit, at)
  call('HSET', key, cseq, int(at + ttl) .. ':' .. response)
  call('PEXPIRE', key, ttl)
  if call('HLEN', key) <= limit then
    return
  end
  -- The lowest goes: it is the oldest.
  local lowest
  local all = call('HKEYS', key)
  for j = 1, #all do
    local number = tonumber(all[j])
    if not lowest or number < lowest then
      lowest = number
    end
  end
  call('HDEL', key, int(lowest))
end

-- 3 name
register('read_dialog', function(keys, args)
  local f = load_dialog(keys[1])
  if not f then
    return { 'unknown' }
  end
  if f.ph == 'd' then
    return { 'gone' }
  end
  return { 'dialog', dialog_state(keys[1]) }
end, { 'no-writes' })

register('confirm', function(keys, args)
  local f = call('HMGET', keys[1], 'v', 'ver', 'ph')
  if not f[1] then
    return { 'unknown' }
  end
  check_layout('dialog', f[1])
  local version, phase = f[2], f[3]
  if phase == 'd' then
    return { 'gone' }
  end
  if phase == 'a' then
    version = int(version + 1)
    call('HSET', keys[1], 'ph', 'c', 'ver', version)
    call('HDEL', keys[1], 'ab')
  end
  return { 'version', version }
end, { 'allow-oom' })

-- Whether a request of that CSeq was claimed so long ago (milliseconds, or '') and has no answer.
local function has_lapsed(key, cseq, claim, ttl, at)
  local entry = claim ~= '' and call('HGET', key, cseq)
  if not entry then
    return false
  end
  local stop, response = string.match(entry, '^(%d+):(.*)$')
  return response == '' and tonumber(stop) - tonumber(ttl) + tonumber(claim) <= at
end

-- 3-5 nonce, 6 name, 7 principal, 8 source or '', 9 CSeq, 10 'bye' for BYE, else how long a claim keeps copies out, or '', 11 sealed flow or '', 12 hash of its source, 13 lifetime of a
-- remembered request, 14 limit of them, 15 '1' with an exchange, 16... the exchange
register('begin', function(keys, args)
  if not nonce_rises(keys, args) then
    return { 'nonce' }
  end
  local p, s, name, cseq = args[1], args[2], args[6], args[9]
  local key, requests = keys[1], requests_key(p, s, name)
  local f, at = load_dialog(key), now()
  local no = refused_request(f, requests, args[7], args[8], cseq, at)
  local is_bye, may_be_equal = args[10] == 'bye', args[10] == 'bye'
  if no and no[1] == 'inprogress' and not is_bye and (not f.pe or f.pe == '') then
    may_be_equal = has_lapsed(requests, cseq, args[10], args[13], at)
    no = not may_be_equal and no or nil
  end
  if no then
    return no
  end
  -- An equal number is a request whose answer is no longer kept: a replay. BYE alone is claimed by its tombstone.
  if f.ci ~= '' then
    local number, highest = tonumber(cseq), tonumber(f.ci)
    if number < highest or (number == highest and not may_be_equal) then
      return { 'order' }
    end
  end
  local exchange = {}
  if args[15] == '1' then
    exchange = open_exchange(p, s, args, 16, at)
  end
  call('HSET', key, 'ci', cseq)
  if args[11] ~= '' then
    call('HSET', key, 'fl', args[11], 'sr', args[12])
  end
  if not is_bye then
    remember(requests, cseq, '', args[13], tonumber(args[14]), at)
  end
  return { 'begun', dialog_state(key), exchange }
end)

-- 3 name, 4 CSeq, 5 sealed response, 6 lifetime of a remembered request, 7 limit of them, 8 '1' with a record, 9 version, 10 its lifetime,
-- 11... the record
register('commit', function(keys, args)
  local p, s, name = args[1], args[2], args[3]
  local key = keys[1]
  local f = load_dialog(key)
  if not f then
    return { 'unknown' }
  end
  if f.ph == 'd' then
    return { 'gone' }
  end
  local at = now()
  if args[8] == '1' then
    if f.ver ~= args[9] then
      return { 'conflict', dialog_state(key) }
    end
    replace_dialog(p, s, name, f, args, 11, tonumber(args[10]), at)
    keep_written(p, s, name, f.cv, args, 11, tonumber(args[10]), false)
  end
  remember(requests_key(p, s, name), args[4], args[5], args[6], tonumber(args[7]), at)
  -- With a record its life grew; the conversation's directory lies in another slot and is told by the caller.
  return { 'version', f.ver, args[8] == '1' and f.cv or '' }
end)

-- 3 name, 4 version, 5 lifetime, 6... the record
register('update_dialog', function(keys, args)
  local key = keys[1]
  local f = load_dialog(key)
  if not f then
    return { 'unknown' }
  end
  if f.ph == 'd' then
    return { 'gone' }
  end
  if f.ver ~= args[4] then
    return { 'conflict', dialog_state(key) }
  end
  replace_dialog(args[1], args[2], args[3], f, args, 6, tonumber(args[5]), now())
  keep_written(args[1], args[2], args[3], f.cv, args, 6, tonumber(args[5]), false)
  return { 'version', f.ver, f.cv }
end)

-- 3-5 nonce, 6 name, 7 principal, 8 source or '', 9 CSeq, 10 sealed response, 11 lifetime of the tombstone, 12 limit of remembered requests
register('terminate', function(keys, args)
  if not nonce_rises(keys, args) then
    return { 'nonce' }
  end
  local p, s, name, cseq = args[1], args[2], args[6], args[9]
  local key, requests = keys[1], requests_key(p, s, name)
  local f, at = load_dialog(key), now()
  local no = refused_request(f, requests, args[7], args[8], cseq, at)
  -- Claimed by another method, and its answer will be dropped: BYE wins over everything.
  if no and no[1] ~= 'inprogress' then
    return no
  end
  if f.ci ~= '' and tonumber(cseq) < tonumber(f.ci) then
    return { 'order' }
  end
  remember(requests, cseq, args[10], args[11], tonumber(args[12]), at)
  local was = tombstone(p, s, name, f, args[11], cseq)
  end_other_leg(p, s, f)
  return { 'dialog', was }
end, { 'allow-oom' })

-- 3 name, 4 '1' before a BYE, 5 fence: owner or '', 6 fence: version or '', 7 '1' with the end of an exchange, 8... that end
register('next_cseq', function(keys, args)
  local p, s = args[1], args[2]
  local key = keys[1]
  local f = load_dialog(key)
  if args[5] ~= '' and f and f.ph ~= 'd' then
    if f.o ~= args[5] then
      return { 'fenced' }
    end
    if args[6] ~= '' and f.ver ~= args[6] then
      return { 'conflict', dialog_state(key) }
    end
  end
  if args[7] == '1' and close_exchange(p, s, args, 8, now())[1] == 'fenced' then
    return { 'fenced' }
  end
  if not f then
    return { 'unknown' }
  end
  if f.ph == 'd' then
    return { 'gone' }
  end
  local cseq = int(f.co + 1)
  if args[4] == '1' then
    call('HSET', key, 'co', cseq, 'ph', 't')
    end_other_leg(p, s, f)
  else
    call('HSET', key, 'co', cseq)
  end
  -- No new version: a request of ours is no change that another writer must see first.
  return { 'cseq', cseq, dialog_state(key) }
end, { 'allow-oom' })

-- 3 name, 4 lifetime of the tombstone
register('bury', function(keys, args)
  local f = load_dialog(keys[1])
  if not f then
    return { 'unknown' }
  end
  if f.ph == 'd' then
    return { 'gone' }
  end
  local was = tombstone(args[1], args[2], args[3], f, args[4])
  end_other_leg(args[1], args[2], f)
  return { 'dialog', was }
end, { 'allow-oom' })

-- 3 name, 4 lifetime, 5 owner, 6 conversation or '', 7... the record
register('restore_dialog', function(keys, args)
  local f = load_dialog(keys[1])
  if f then
    if f.ph == 'd' then
      return { 'gone' }
    end
    return { 'conflict', dialog_state(keys[1]) }
  end
  return { 'version', make_dialog(args[1], args[2], args[3], nil, args[5], args[6], args, 7, tonumber(args[4]), now()) }
end)
