-- Goes before every script: this server's clock in whole microseconds since 1970. Instants never leave the server.
local function now_micros()
    local time = redis.call('TIME')
    return time[1] * 1000000 + time[2]
end

-- Numbers are kept with all their digits; Lua's own text of a number drops some.
local function exact(number)
    return string.format('%.17g', number)
end
