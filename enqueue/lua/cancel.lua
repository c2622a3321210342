-- Cancels a job that waits, leaving what RQ's own cancel leaves; what runs or has ended stays.
--
-- KEYS  queue, job hash, canceled registry
-- ARGV  id, time in s
-- Reply {'cancelled'}, {'unknown'} or {status}
--
-- hostd looks for scores that are no longer in the future (its own are), ends the request and
-- publishes its result.
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
