-- The site didn't answer. KEYS[1]: the site's hash; it is forgotten when nobody asked for it for so long.
redis.call('HINCRBY', KEYS[1], 'failures', 1)
redis.call('PEXPIRE', KEYS[1], 3600000)
return 0
