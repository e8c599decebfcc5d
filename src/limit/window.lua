-- The sliding window of window.rs, as one atomic step in Redis. Same rule, same names; the two
-- share the vectors in vectors.json.
--
-- KEYS[1]  the counter: a list of the times of counted hits, oldest first, in microseconds.
--          One key per call, so it works in a cluster; at most `limit` entries; it expires by
--          itself one window after the last counted hit.
-- ARGV[1]  limit: most hits in any stretch of the window's length
-- ARGV[2]  window: its length in microseconds
-- now      set by the line that is put before this body (see `script` in redis.rs): microseconds
--          since 1970 by the clock of the Redis server, so that gateways need not agree on time
--
-- Returns { allowed (1 or 0), remaining, reset, retry_after }, times in microseconds from now.
--
-- Numbers in Lua are doubles: microseconds since 1970 are exact until the year 2255. They are
-- written with %.0f, because tostring() would round them to 14 digits.

local key = KEYS[1]
local limit = tonumber(ARGV[1])
local window = tonumber(ARGV[2])
local count = redis.call('LLEN', key)

local function time_at(index)
  return tonumber(redis.call('LINDEX', key, index))
end

-- Hits in the future: the clock was set back, or a replica with another clock took over. They
-- count as made now.
local moved = false
for index = count - 1, 0, -1 do
  if time_at(index) <= now then break end
  redis.call('LSET', key, index, string.format('%.0f', now))
  moved = true
end

-- Hits that have left the window.
while count > 0 and time_at(0) + window - now <= 0 do
  redis.call('LPOP', key)
  count = count - 1
end

local allowed = count < limit
if allowed then
  redis.call('RPUSH', key, string.format('%.0f', now))
  count = count + 1
end
if allowed or moved then
  redis.call('PEXPIRE', key, math.ceil(window / 1000))
end

local retry_after = 0
if not allowed then
  retry_after = time_at(count - limit) + window - now
end
return { allowed and 1 or 0, math.max(limit - count, 0), time_at(-1) + window - now, retry_after }
