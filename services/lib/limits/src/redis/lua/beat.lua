-- A member says that it lives. KEYS: the epoch, a hash; the members, sorted by when they were last heard. ARGV: the member's
-- name, microseconds after which a silent one is dead. Answers {microseconds since the epoch began, living members, this
-- one's rank among them}. An epoch begins when the server does, or forgets it: what it knew may be lost.
local now = now_micros()
local run = string.match(redis.call('INFO', 'server'), 'run_id:(%w+)') or 'unnamed'
local epoch = redis.call('HMGET', KEYS[1], 'run', 'began')
local began = math.min(tonumber(epoch[2]) or now, now)
if epoch[1] ~= run then
    began = now
    redis.call('HSET', KEYS[1], 'run', run, 'began', exact(now))
end
redis.call('ZADD', KEYS[2], exact(now), ARGV[1])
redis.call('ZREMRANGEBYSCORE', KEYS[2], '-inf', exact(now - tonumber(ARGV[2])))
local rank, members = 0, redis.call('ZRANGE', KEYS[2], 0, -1)
for _, name in ipairs(members) do
    if name < ARGV[1] then
        rank = rank + 1
    end
end
return {now - began, #members, rank}
