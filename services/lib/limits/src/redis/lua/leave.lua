-- A member goes. KEYS[1]: the members. ARGV: its name.
return redis.call('ZREM', KEYS[1], ARGV[1])
