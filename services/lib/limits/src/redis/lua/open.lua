-- Whether one more connection may be opened. KEYS: leases and probes (sorted by expiry), the site's hash. ARGV: the most
-- connections (0: any number), the lease's name, its microseconds, failures before probing, the most probes, how far ahead
-- those are sent for whom there is no connection, and those who wait for a site that doesn't answer.
-- Answers {1 for granted, 1 for a probe, microseconds to wait, connections that are open now}.
local now = now_micros()
local connections_max, name, life = tonumber(ARGV[1]), ARGV[2], tonumber(ARGV[3])
local failures_before, probes_max = tonumber(ARGV[4]), tonumber(ARGV[5])
local connection_wait_max, probing_wait_max = tonumber(ARGV[6]), tonumber(ARGV[7])
local MEMORY_MILLIS = 3600000

for place = 1, 2 do
    redis.call('ZREMRANGEBYSCORE', KEYS[place], '-inf', exact(now))
end
local open = redis.call('ZCARD', KEYS[1])
local site = redis.call('HMGET', KEYS[3], 'failures', 'horizon', 'held')
local probing = (tonumber(site[1]) or 0) >= failures_before
if connections_max == 0 then
    connections_max = math.huge
end
local free = not probing or redis.call('ZCARD', KEYS[2]) < probes_max
if free and open < connections_max then
    local expiry = exact(now + life)
    local keep = string.format('%.0f', life / 1000 + 1000)
    redis.call('ZADD', KEYS[1], expiry, name)
    redis.call('PEXPIRE', KEYS[1], keep)
    if probing then
        redis.call('ZADD', KEYS[2], expiry, name)
        redis.call('PEXPIRE', KEYS[2], keep)
    end
    return {1, probing and 1 or 0, 0, open + 1}
end
-- Connections become free at about this pace; those who wait are spread over it.
local places, wait_max = connections_max, connection_wait_max
if probing then
    places, wait_max = math.min(probes_max, connections_max), probing_wait_max
end
local pace = (tonumber(site[3]) or 1e6) / places
local start = math.min(math.max(tonumber(site[2]) or 0, now + pace), now + wait_max)
redis.call('HSET', KEYS[3], 'horizon', exact(start + pace))
redis.call('PEXPIRE', KEYS[3], MEMORY_MILLIS)
return {0, 0, math.ceil(start - now), open}
