-- The site answered. KEYS[1]: the site's hash. ARGV: failures before probing.
local failures = tonumber(redis.call('HGET', KEYS[1], 'failures')) or 0
if failures >= tonumber(ARGV[1]) then
    redis.call('HDEL', KEYS[1], 'horizon')
end
redis.call('HDEL', KEYS[1], 'failures')
return 0
