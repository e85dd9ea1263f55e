-- What becomes of a login: {0, 0} it is looked at, {1, 0} it waits for others, {2, microseconds} it is refused for so long.
local now = now_micros()
local pair, address = load_record(1, now), load_record(2, now)

local function admission(record)
    local over = math.ceil(math.max(record.failures - record.free, 0) / record.step)
    if over > 0 and record.fresh then
        local wait = math.min(2 ^ (over - 1) * 1e6, record.wait_max)
        local refused = record.failed + wait - now
        if refused > 0 then
            return {2, math.ceil(refused)}
        end
    end
    return {record.pending >= record.pending_max and 1 or 0, 0}
end

local answer = admission(pair)
-- A user name that has logged in from an address isn't held up by others' failures there.
if answer[1] == 0 and not pair.trusted then
    answer = admission(address)
end
if answer[1] == 0 then
    for _, record in ipairs({pair, address}) do
        record.pending = record.pending + 1
        store_record(record, now)
    end
end
return answer
