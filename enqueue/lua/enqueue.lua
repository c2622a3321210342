-- Stores and pushes jobs, all or none, in order; returns what is stored for ids already stored.
--
-- KEYS  queue, then one job hash per job
-- ARGV  limit, intermediate list, set of queues, n = hash arguments per job,
--       then per job: id, result stream, TTL in s, n hash arguments (field, value, ...)
-- Reply {'full', depth}, or one item per job: {'new', last id} or
--       {status, last id, data, fields of the last result if the job has ended}
--
-- Keys on which the client's ACL need not allow both read and write are in ARGV: Redis demands
-- both for every key in KEYS.
local queue, limit, intermediate, queues = KEYS[1], tonumber(ARGV[1]), ARGV[2], ARGV[3]
local width = tonumber(ARGV[4])
local ended = {finished = true, failed = true, canceled = true, stopped = true}

local function stored(job, stream)
  local hash = redis.call('HMGET', job, 'status', 'data')
  local last = redis.call('XREVRANGE', stream, '+', '-', 'COUNT', 1)[1]
  local reply = {hash[1] or '', last and last[1] or '0-0', hash[2] or ''}
  if last and ended[hash[1]] then reply[4] = last[2] end
  return reply
end

local fresh = {}
local count = 0
for i = 2, #KEYS do
  if not fresh[KEYS[i]] and redis.call('EXISTS', KEYS[i]) == 0 then
    fresh[KEYS[i]] = true
    count = count + 1
  end
end
if count > 0 then
  local depth = redis.call('LLEN', queue) + redis.call('LLEN', intermediate)
  if depth + count > limit then return {'full', depth} end
  register(queues, queue)
end

local replies = {}
for i = 2, #KEYS do
  local job, at = KEYS[i], 5 + (i - 2) * (width + 3)
  local reply = {}
  if fresh[job] then
    fresh[job] = nil
    reply = {'new', stored(job, ARGV[at + 1])[2]}
    redis.call('HSET', job, unpack(ARGV, at + 3, at + 2 + width))
    redis.call('EXPIRE', job, ARGV[at + 2])
    redis.call('RPUSH', queue, ARGV[at])
  else
    reply = stored(job, ARGV[at + 1])
  end
  replies[i - 1] = reply
end
return replies
