-- Cancels a waiting job, with the same result in Redis as RQ's own cancel; does not change a job
-- that runs or has ended.
--
-- KEYS  queue, job hash, canceled registry
-- ARGV  id, time in s
-- Reply {'cancelled'}, {'unknown'} or {status}
--
-- hostd looks for scores that are not in the future (those that it writes itself are), ends the
-- request and publishes its result.
local queue, job, canceled = KEYS[1], KEYS[2], KEYS[3]
local id, now = ARGV[1], tonumber(ARGV[2])
local status = redis.call('HGET', job, 'status')
if not status then return {'unknown'} end
if status == 'canceled' then
  local score = redis.call('ZSCORE', canceled, id)
  if score and tonumber(score) > now then return {status} end
elseif status ~= 'queued' and status ~= 'deferred' then
  return {status}
end
redis.call('HSET', job, 'status', 'canceled')
redis.call('ZADD', canceled, now, id)
redis.call('LREM', queue, 0, id)
return {'cancelled'}
