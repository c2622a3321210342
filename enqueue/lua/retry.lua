-- Pushes a failed job again; repeated calls with the same token push it once.
--
-- KEYS  queue, job hash
-- ARGV  limit, intermediate list, set of queues, id, result stream, TTL in s, token, time,
--       then the registries that may hold the job
-- Reply {'gone'}, {'full', depth}, {'retried', last id} or {status, last id}
local queue, job, token = KEYS[1], KEYS[2], ARGV[7]
local hash = redis.call('HMGET', job, 'status', 'retry_token', 'retry_after')
local status = hash[1]
if not status then return {'gone'} end
if hash[2] == token then return {'retried', hash[3]} end

local last = redis.call('XREVRANGE', ARGV[5], '+', '-', 'COUNT', 1)[1]
local after = last and last[1] or '0-0'
if status ~= 'failed' and status ~= 'stopped' then
  return {status, after}
end

local depth = redis.call('LLEN', queue) + redis.call('LLEN', ARGV[2])
if depth >= tonumber(ARGV[1]) then return {'full', depth} end
redis.call('HSET', job, 'status', 'queued', 'enqueued_at', ARGV[8], 'started_at', '',
  'ended_at', '', 'worker_name', '', 'exc_info', '', 'retry_token', token, 'retry_after', after)
redis.call('EXPIRE', job, ARGV[6])
for i = 9, #ARGV do redis.call('ZREM', ARGV[i], ARGV[4]) end
register(ARGV[3], queue)
redis.call('RPUSH', queue, ARGV[4])
return {'retried', after}
