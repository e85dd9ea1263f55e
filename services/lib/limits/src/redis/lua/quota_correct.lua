-- Adds to what an account used on a day, or gives back. KEYS[1]: a hash of day and use. ARGV: the day, recipients (negative to
-- give back). Another day's are of no interest any more.
local stored = redis.call('HMGET', KEYS[1], 'day', 'used')
local today = math.floor(now_micros() / 86400000000)
local day, used = tonumber(stored[1]) or 0, tonumber(stored[2]) or 0
if today > day then
    day, used = today, 0
end
if day == tonumber(ARGV[1]) then
    used = math.max(used + tonumber(ARGV[2]), 0)
    redis.call('HSET', KEYS[1], 'day', exact(day), 'used', exact(used))
    redis.call('PEXPIRE', KEYS[1], 172800000)
end
return 0
