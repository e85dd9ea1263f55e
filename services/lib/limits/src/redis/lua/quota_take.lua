-- Counts recipients against an account's day. KEYS[1]: a hash of day and use. ARGV: the most a day (-1: any number),
-- recipients (0 to look only). Answers {1 for counted, recipients used today, the day, microseconds until the next one}.
local now = now_micros()
local DAY = 86400000000
local stored = redis.call('HMGET', KEYS[1], 'day', 'used')
local day, used = tonumber(stored[1]) or 0, tonumber(stored[2]) or 0
local today = math.floor(now / DAY)
-- A day never comes back, whatever the clock does.
if today > day then
    day, used = today, 0
end
local most, recipients = tonumber(ARGV[1]), tonumber(ARGV[2])
local resets_in = (day + 1) * DAY - now
if most >= 0 and used + recipients > most then
    return {0, used, day, resets_in}
end
if recipients > 0 then
    used = used + recipients
    redis.call('HSET', KEYS[1], 'day', exact(day), 'used', exact(used))
    redis.call('PEXPIRE', KEYS[1], 172800000)
end
return {1, used, day, resets_in}
