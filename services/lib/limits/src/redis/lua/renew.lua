-- Renews leases, also ones that were forgotten. KEYS: leases, probes. ARGV: microseconds, then for each lease its name and 1
-- for a probe. Answers how many connections are open now.
local now = now_micros()
local life = tonumber(ARGV[1])
local expiry = exact(now + life)
local keep = string.format('%.0f', life / 1000 + 1000)
for place = 2, #ARGV, 2 do
    redis.call('ZADD', KEYS[1], expiry, ARGV[place])
    if ARGV[place + 1] == '1' then
        redis.call('ZADD', KEYS[2], expiry, ARGV[place])
    end
end
for place = 1, 2 do
    redis.call('ZREMRANGEBYSCORE', KEYS[place], '-inf', exact(now))
    redis.call('PEXPIRE', KEYS[place], keep)
end
return redis.call('ZCARD', KEYS[1])
