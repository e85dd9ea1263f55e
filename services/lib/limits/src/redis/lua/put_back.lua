-- Puts back tokens that weren't used. ARGV: how many.
local now = now_micros()
local bucket = load_bucket(now)
if bucket.rate > 0 then
    refill(bucket, now)
    bucket.tokens = math.min(bucket.tokens + tonumber(ARGV[1]), bucket.burst)
    store_bucket(bucket, now)
end
return 0
