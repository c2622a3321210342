-- The set of all queues is for tools that list them: whatever somebody has put in its place, no
-- request may fail for it.
local function register(set, member)
  local reply = redis.pcall('SADD', set, member)
  if type(reply) == 'table' and reply.err and not reply.err:find('WRONGTYPE', 1, true) then
    redis.call('SADD', set, member)
  end
end
