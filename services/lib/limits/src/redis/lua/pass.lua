-- When messages may go. ARGV: rate, burst, want, 1 for a due one and 0 for a fresh one, how far a due one is moved at most, how
-- long nobody may go.
-- Answers {granted, 0} or {0, microseconds to wait}.
local now = now_micros()
local want, due, catch_up_max = tonumber(ARGV[3]), ARGV[4] == '1', tonumber(ARGV[5])
local opens = now + tonumber(ARGV[6])
local bucket = load_bucket(now)
adopt(bucket, now, tonumber(ARGV[1]), tonumber(ARGV[2]))
refill(bucket, now)
-- Those who were told to come back when a pause ends aren't late before.
if opens > now then
    bucket.taken = math.max(bucket.taken, opens)
end
-- Jobs that were told to come back may be removed, or late: nobody waits behind a horizon that nobody keeps.
if now - bucket.taken > 2e6 * bucket.burst / bucket.rate + 1e6 then
    bucket.horizon = math.min(bucket.horizon, now)
end
local answer
if opens <= now and (due or bucket.horizon <= now) and bucket.tokens >= 1 - EPSILON then
    local granted = math.min(want, math.floor(bucket.tokens + EPSILON))
    bucket.tokens = bucket.tokens - granted
    bucket.taken = now
    answer = {granted, 0}
else
    local next_token = math.max(opens, now + math.max(1 - bucket.tokens, 0) * 1e6 / bucket.rate)
    local time = math.min(want, bucket.burst) * 1e6 / bucket.rate
    local start
    if due then
        start = math.max(next_token, math.min(bucket.catch_up, opens + catch_up_max))
        bucket.catch_up = start + time
        bucket.horizon = math.max(bucket.horizon, bucket.catch_up)
    else
        start = math.max(next_token, bucket.horizon)
        bucket.horizon = start + time
    end
    answer = {0, math.ceil(start - now)}
end
store_bucket(bucket, now)
return answer
