-- The set of all queues is only for tools that list them: if the key has another type, no request
-- may fail because of it.
local function register(set, member)
  local reply = redis.pcall('SADD', set, member)
  if type(reply) == 'table' and reply.err and not reply.err:find('WRONGTYPE', 1, true) then
    redis.call('SADD', set, member)
  end
end
