#!lua name=hopstream_@VERSION@
-- The store's only way to write. Every function checks all it can before its first write, since
-- Lua does not roll back. Answers are arrays whose first element names the outcome.

local STATE, IDS, SOURCES, MARK, LOG, LEASES, BLOCKS = 1, 2, 3, 4, 5, 6, 6 -- places in KEYS; blocks follow
local STEP = 4000 -- arguments of one redis.call; Lua's stack holds about 8000

local function in_steps(command, key, values)
  for first = 1, #values, STEP do
    redis.call(command, key, unpack(values, first, math.min(first + STEP - 1, #values)))
  end
end

local function now_ms()
  local time = redis.call('TIME')
  return tonumber(time[1]) * 1000 + math.floor(tonumber(time[2]) / 1000)
end

local function has_type(key, expected)
  local kind = redis.call('TYPE', key).ok
  return kind == 'none' or kind == expected
end

-- KEYS state | ARGV digest, first chain, block rows, msgpack {column = bytes of a row}
local function create(keys, args)
  local digest = redis.call('HGET', keys[STATE], 'digest')
  if digest then
    return { digest == args[1] and 'exists' or 'mismatch' }
  end
  redis.call('HSET', keys[STATE], 'digest', args[1], 'chain', args[2], 'previous', '', 'block_rows', args[3],
    'row_bytes', args[4], 'epoch', 0, 'seq', 0, 'rows', 0, 'appended', 0, 'trimmed', 0)
  return { 'created' }
end

-- KEYS state, ids, log, leases, blocks... | ARGV rows of these blocks
local function drop(keys, args)
  local rows = redis.call('HGET', keys[1], 'rows')
  if rows and rows ~= args[1] then return { 'conflict' } end
  in_steps('UNLINK', keys[1], keys)
  return { 'dropped' }
end

-- KEYS state | ARGV digest
local function take(keys, args)
  local digest = redis.call('HGET', keys[STATE], 'digest')
  if digest ~= args[1] then
    return { digest and 'mismatch' or 'missing' }
  end
  redis.call('HINCRBY', keys[STATE], 'epoch', 1)
  return { 'taken', redis.call('HMGET', keys[STATE], 'epoch', 'seq', 'chain', 'previous', 'rows', 'checkpoint') }
end

-- KEYS state, leases | ARGV digest, holder, seq ('' for the current one), milliseconds
local function lease(keys, args)
  local state = redis.call('HMGET', keys[1], 'digest', 'epoch', 'seq', 'chain', 'rows', 'checkpoint')
  if state[1] ~= args[1] then
    return { state[1] and 'mismatch' or 'missing' }
  end
  local seq = tonumber(args[3] == '' and state[3] or args[3])
  redis.call('HSET', keys[2], args[2], cmsgpack.pack({ seq, now_ms() + tonumber(args[4]) }))
  return { 'leased', state }
end

-- Drops the oldest entries until the log holds at most `soft` bytes; entries that a live lease still
-- needs go only when the log exceeds `hard` bytes.
local function trim_log(state_key, log_key, leases_key, soft, hard)
  local state = redis.call('HMGET', state_key, 'appended', 'trimmed')
  local held = tonumber(state[1] or 0) - tonumber(state[2] or 0)
  if held <= soft then
    return 0
  end
  local needed, now, leases = math.huge, now_ms(), redis.call('HGETALL', leases_key)
  for i = 1, #leases, 2 do
    local held_lease = cmsgpack.unpack(leases[i + 1])
    if held_lease[2] <= now then
      redis.call('HDEL', leases_key, leases[i])
    else
      needed = math.min(needed, held_lease[1] + 1)
    end
  end
  local dropped, bytes, from = 0, 0, '-'
  while held - bytes > soft do
    local entry = redis.call('XRANGE', log_key, from, '+', 'COUNT', 1)[1]
    if not entry then break end
    local seq = tonumber(string.match(entry[1], '-(%d+)$'))
    if seq >= needed and held - bytes <= hard then break end
    dropped, bytes, from = dropped + 1, bytes + #entry[2][2] + #entry[2][4], '(' .. entry[1]
  end
  if dropped > 0 then
    redis.call('XTRIM', log_key, 'MAXLEN', redis.call('XLEN', log_key) - dropped)
    redis.call('HINCRBY', state_key, 'trimmed', string.format('%.0f', bytes))
  end
  return dropped
end

-- KEYS state, log, leases | ARGV soft, hard
local function trim(keys, args)
  return { 'trimmed', trim_log(keys[1], keys[2], keys[3], tonumber(args[1]), tonumber(args[2])) }
end

-- {key, byte offset, bytes} of every row range of the batch, or nil and what is wrong with it.
local function plan_ranges(keys, header, data, targets, block_rows, row_bytes)
  local ranges, at = {}, 1
  for c, column in ipairs(header[2]) do
    local name, runs, width = column[1], column[2], row_bytes[column[1]]
    if not width or #runs ~= 2 * #targets[c] then return nil, 'column ' .. tostring(name) end
    for i, target in ipairs(targets[c]) do
      local place, count, key = runs[2 * i - 1] % block_rows, runs[2 * i], keys[BLOCKS + target]
      if not key or place + count > block_rows then return nil, 'range of ' .. name end
      ranges[#ranges + 1] = { key, place * width, at, at + count * width - 1 }
      at = at + count * width
    end
  end
  if at ~= #data + 1 then return nil, 'length of the data' end
  return ranges
end

-- Another generation's writer may be ahead of this checkpoint in the same stream: then the source records are its.
local function owns_sources(mark_key, checkpoint)
  local stored = redis.call('GET', mark_key)
  if not stored then return true end
  if not checkpoint then return false end -- nothing of the stream is in this generation yet
  local mark = cmsgpack.unpack(stored)
  return mark[2] ~= checkpoint[2] or mark[3] ~= checkpoint[3] or mark[1] <= checkpoint[1]
end

-- KEYS state, ids, sources, mark, log, leases, blocks...
-- ARGV epoch, seq, chain before it, header, data, targets, sources, soft, hard
local function apply(keys, args)
  local epoch, seq, before, head, data = args[1], tonumber(args[2]), args[3], args[4], args[5]
  local state = redis.call('HMGET', keys[STATE],
    'epoch', 'seq', 'chain', 'previous', 'block_rows', 'row_bytes', 'rows', 'checkpoint')
  if not state[1] then return { 'missing' } end
  if epoch ~= state[1] then return { 'stale', state[1] } end
  local last = tonumber(state[2])
  local chain = redis.sha1hex(before .. head .. data)
  if seq == last and before == state[4] and chain == state[3] then return { 'duplicate', chain } end
  if seq ~= last + 1 or before ~= state[3] then return { 'conflict', state[2] } end

  local header, sources = cmsgpack.unpack(head), cmsgpack.unpack(args[7])
  local rows, ids, deleted, checkpoint = header[1], header[3], header[4], header[5]
  local ranges, problem = plan_ranges(
    keys, header, data, cmsgpack.unpack(args[6]), tonumber(state[5]), cmsgpack.unpack(state[6]))
  if not ranges then return { 'invalid', problem } end
  if rows < tonumber(state[7]) then return { 'invalid', 'rows went down' } end
  for i, key in ipairs(keys) do
    local expected = i == MARK and 'string' or i == LOG and 'stream' or i > BLOCKS and 'string' or 'hash'
    if not has_type(key, expected) then return { 'invalid', 'type of ' .. key } end
  end
  local owner = owns_sources(keys[MARK], checkpoint or state[8] and cmsgpack.unpack(state[8]))

  redis.call('XADD', keys[LOG], epoch .. '-' .. args[2], 'h', head, 'd', data, 'c', chain)
  for _, range in ipairs(ranges) do
    redis.call('SETRANGE', range[1], range[2], string.sub(data, range[3], range[4]))
  end
  in_steps('HDEL', keys[IDS], deleted)
  in_steps('HSET', keys[IDS], ids)
  if owner then
    in_steps('HDEL', keys[SOURCES], sources[2])
    in_steps('HSET', keys[SOURCES], sources[1])
  end
  if checkpoint then
    local packed = cmsgpack.pack(checkpoint)
    redis.call('HSET', keys[STATE], 'checkpoint', packed)
    if owner then redis.call('SET', keys[MARK], packed) end
  end
  redis.call('HSET', keys[STATE], 'seq', args[2], 'chain', chain, 'previous', before, 'rows', rows)
  redis.call('HINCRBY', keys[STATE], 'appended', #head + #data)
  trim_log(keys[STATE], keys[LOG], keys[LEASES], tonumber(args[8]), tonumber(args[9]))
  return { 'applied', chain }
end

-- Puts one event into a list that is newest first; an older event changes nothing about a newer one.
local function touch(entries, item, at, cap)
  for i, entry in ipairs(entries) do
    if entry[1] == item then
      if entry[2] > at then return end
      table.remove(entries, i)
      break
    end
  end
  local place = 1
  while entries[place] and entries[place][2] > at do place = place + 1 end
  if place <= cap then
    table.insert(entries, place, { item, at })
  end
  while #entries > cap do entries[#entries] = nil end
end

-- KEYS offsets, users... | ARGV stream and partition, last offset before ('' for none), last offset after, cap,
-- msgpack {{user, behaviour, item, at}, ...} in the order of offsets; an event without a behaviour erases the user.
local function append(keys, args)
  local field, before, after, cap, events = args[1], args[2], args[3], tonumber(args[4]), cmsgpack.unpack(args[5])
  local last = redis.call('HGET', keys[1], field) or ''
  if last ~= before then return { 'conflict', last } end
  local histories = {}
  for _, event in ipairs(events) do
    local user, behavior = event[1], event[2]
    if behavior then
      if not histories[user] then
        local stored = redis.call('GET', keys[user + 1])
        histories[user] = stored and cmsgpack.unpack(stored) or {}
      end
      histories[user][behavior] = histories[user][behavior] or {}
      touch(histories[user][behavior], event[3], event[4], cap)
    else
      histories[user] = {}
    end
  end
  for user, history in pairs(histories) do
    if next(history) then
      redis.call('SET', keys[user + 1], cmsgpack.pack(history))
    else
      redis.call('DEL', keys[user + 1])
    end
  end
  redis.call('HSET', keys[1], field, after)
  return { 'appended' }
end

-- KEYS positions | ARGV stream and partition, packed position before ('' for none), packed position after
local function advance(keys, args)
  local stored = redis.call('HGET', keys[1], args[1]) or ''
  if stored ~= args[2] then return { 'conflict' } end
  redis.call('HSET', keys[1], args[1], args[3])
  return { 'advanced' }
end

redis.register_function('create_@VERSION@', create)
redis.register_function { function_name = 'drop_@VERSION@', callback = drop, flags = { 'allow-oom' } }
redis.register_function { function_name = 'take_@VERSION@', callback = take, flags = { 'allow-oom' } }
redis.register_function { function_name = 'lease_@VERSION@', callback = lease, flags = { 'allow-oom' } }
redis.register_function { function_name = 'trim_@VERSION@', callback = trim, flags = { 'allow-oom' } }
redis.register_function('apply_@VERSION@', apply)
redis.register_function('append_@VERSION@', append)
redis.register_function('advance_@VERSION@', advance)
