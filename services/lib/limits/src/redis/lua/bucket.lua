-- Goes before the scripts of a site's pace. KEYS[1] is the bucket, a hash; the same arithmetic as in local/site.rs, with
-- microseconds for seconds.
local EPSILON = 1e-6
local FIELDS = {'tokens', 'refilled', 'taken', 'rate', 'burst', 'horizon', 'catch_up'}

local function load_bucket(now)
    local values = redis.call('HMGET', KEYS[1], unpack(FIELDS))
    local initial = {0, now, now, 0, 0, now, now}
    local bucket = {}
    for place, field in ipairs(FIELDS) do
        bucket[field] = tonumber(values[place]) or initial[place]
    end
    -- The server's clock may be set back, or another server's go on from here: what was ahead stays as far ahead.
    local back = bucket.refilled - now
    if back > 0 then
        for _, field in ipairs({'refilled', 'taken', 'horizon', 'catch_up'}) do
            bucket[field] = bucket[field] - back
        end
    end
    return bucket
end

local function refill(bucket, now)
    local earned = (now - bucket.refilled) * bucket.rate / 1e6
    bucket.tokens = math.min(bucket.tokens + earned, bucket.burst)
    bucket.refilled = now
end

-- Takes up the limits, which may have changed: what is given away of the future is stretched or shrunk to the new rate.
local function adopt(bucket, now, rate, burst)
    if rate == bucket.rate and burst == bucket.burst then
        return
    end
    refill(bucket, now)
    if bucket.rate == 0 then
        bucket.tokens = burst
    else
        local stretch = bucket.rate / rate
        bucket.horizon = now + math.max(bucket.horizon - now, 0) * stretch
        bucket.catch_up = now + math.max(bucket.catch_up - now, 0) * stretch
    end
    bucket.tokens = math.min(bucket.tokens, burst)
    bucket.rate, bucket.burst = rate, burst
end

-- Keeps the bucket until it says no more than a new one: full, with nothing given away of the future.
local function store_bucket(bucket, now)
    local pairs_of = {}
    for _, field in ipairs(FIELDS) do
        pairs_of[#pairs_of + 1] = field
        pairs_of[#pairs_of + 1] = exact(bucket[field])
    end
    redis.call('HSET', KEYS[1], unpack(pairs_of))
    local full = 2e6 * bucket.burst / bucket.rate
    local ahead = math.max(full, bucket.horizon - now, bucket.catch_up - now) / 1000 + 60000
    redis.call('PEXPIRE', KEYS[1], string.format('%.0f', math.min(ahead, 1e13)))
end
