-- Goes before the scripts of logins; the same rules as in src/login.rs, which passes its numbers. KEYS: what is known of a
-- user name from an address, and of the address. ARGV from 1 on, for each of the two: failures before waits begin, so many
-- failures more double the wait, the longest wait, and how many are looked at at a time; then how long failures and logins
-- in sight are remembered. Times are microseconds.
local NUMBERS_OF_EACH = 4
local memory, pending_life = tonumber(ARGV[9]), tonumber(ARGV[10])
local DAY_MILLIS = 86400000

local function load_record(place, now)
    local values = redis.call('HMGET', KEYS[place], 'failures', 'failed', 'pending', 'touched', 'trusted')
    local first = (place - 1) * NUMBERS_OF_EACH
    local record = {
        key = KEYS[place],
        failures = tonumber(values[1]) or 0,
        failed = math.min(tonumber(values[2]) or 0, now),
        pending = tonumber(values[3]) or 0,
        touched = math.min(tonumber(values[4]) or 0, now),
        trusted = values[5] == '1',
        free = tonumber(ARGV[first + 1]),
        step = tonumber(ARGV[first + 2]),
        wait_max = tonumber(ARGV[first + 3]),
        pending_max = tonumber(ARGV[first + 4]),
    }
    record.fresh = now - record.failed < memory
    if now - record.touched >= pending_life then
        record.pending = 0
    end
    return record
end

local function store_record(record, now)
    redis.call('HSET', record.key, 'failures', exact(record.failures), 'failed', exact(record.failed),
        'pending', exact(record.pending), 'touched', exact(now), 'trusted', record.trusted and '1' or '0')
    -- Who logged in is known for a week.
    redis.call('PEXPIRE', record.key, record.trusted and 7 * DAY_MILLIS or math.ceil(memory / 1000) + 1000)
end
