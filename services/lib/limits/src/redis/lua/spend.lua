-- Takes what went out while this server wasn't asked. ARGV: rate, burst, messages.
local now = now_micros()
local bucket = load_bucket(now)
adopt(bucket, now, tonumber(ARGV[1]), tonumber(ARGV[2]))
refill(bucket, now)
bucket.tokens = math.max(bucket.tokens - tonumber(ARGV[3]), 0)
bucket.taken = now
store_bucket(bucket, now)
return 0
