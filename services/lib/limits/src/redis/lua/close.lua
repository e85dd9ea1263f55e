-- A connection ended. KEYS: leases, probes, the site's hash. ARGV: the lease's name, microseconds that it was held (0: it
-- never was).
redis.call('ZREM', KEYS[1], ARGV[1])
redis.call('ZREM', KEYS[2], ARGV[1])
local held = tonumber(ARGV[2])
if held > 0 then
    local average = tonumber(redis.call('HGET', KEYS[3], 'held')) or 1e6
    average = math.max(5e4, math.min(0.8 * average + 0.2 * held, 6e7))
    redis.call('HSET', KEYS[3], 'held', exact(average))
    redis.call('PEXPIRE', KEYS[3], 3600000)
end
return 0
