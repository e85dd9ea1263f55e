-- How a login ended. ARGV[11]: failed, succeeded or undecided.
local now = now_micros()
local pair, address = load_record(1, now), load_record(2, now)
if ARGV[11] == 'failed' then
    for _, record in ipairs({pair, address}) do
        record.failures = record.fresh and record.failures + 1 or 1
        record.failed = now
    end
elseif ARGV[11] == 'succeeded' then
    pair.failures = 0
    pair.trusted = true
end
for _, record in ipairs({pair, address}) do
    record.pending = math.max(record.pending - 1, 0)
    store_record(record, now)
end
return 0
