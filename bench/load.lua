-- What wrk runs: the requests of one plan, and a look at every answer.
--
-- A plan is a Lua file that load.py writes. Each connection has a thread of wrk and a Lua state of
-- its own, so what one answer gives (a rotated token) goes into the next request of that connection,
-- or, where it has several states in turn, into the next one with the same state.

local threads = {}

function setup(thread)
  thread:set("index", #threads)
  table.insert(threads, thread)
end

function init(arguments)
  plan = dofile(arguments[1] .. "/plan.lua")
  states = dofile(arguments[1] .. "/states" .. index .. ".lua")
  state = states[1]
  position = 0
  laps = 0
  turn = index
  statuses = {}
  wrong = 0
  sample = ""
  math.randomseed(plan.seed + index)
  if plan.delay > 0 then -- with the function, wrk waits for a timer before every request
    function delay() -- from half as long to half as long again, or all would ask at once
      return math.random(math.floor(plan.delay / 2), math.floor(plan.delay * 3 / 2))
    end
  end
end

local function fill(text)
  return (text:gsub("{(%w+)}", function(name)
    if name == "email" then
      turn = (turn + plan.threads) % plan.users
      return "user" .. turn .. "@example.com"
    elseif name == "address" then
      return math.random(1, 223) .. "." .. math.random(0, 255) .. "." .. math.random(0, 255) .. ".9"
    end
    return state[name]
  end))
end

local ready = nil

function request()
  if plan.constant and ready then
    return ready
  end
  position = position % #states + 1
  if position == 1 then
    laps = laps + 1
  end
  state = states[position]
  local headers = {}
  for name, value in pairs(plan.headers) do
    headers[name] = fill(value)
  end
  local body = plan.body ~= "" and fill(plan.body) or nil
  ready = wrk.format(plan.method, fill(plan.path), headers, body)
  return ready
end

local function cookie(name, headers)
  for header, value in pairs(headers) do
    if header:lower() == "set-cookie" and value:sub(1, #name + 1) == name .. "=" then
      return value:match("=([^;]*)")
    end
  end
end

local function find(place, headers, body)
  local kind, name = place:match("(%a+):(.*)")
  if kind == "json" then
    return body:match('"' .. name .. '"%s*:%s*"([^"]*)"')
  end
  return cookie(name, headers)
end

local function learn(headers, body)
  local before = state[plan.renews]
  for name, place in pairs(plan.take) do
    local value = find(place, headers, body)
    if not value then
      return false
    end
    state[name] = value
  end
  return plan.renews == "" or state[plan.renews] ~= before
end

function response(status, headers, body)
  statuses[status] = (statuses[status] or 0) + 1
  local right = plan.statuses[status]
  if right and status == plan.status then
    right = body:find(plan.contains, 1, true)
      and (plan.sets == "" or cookie(plan.sets, headers))
      and learn(headers, body)
  end
  if not right then
    wrong = wrong + 1
    sample = status .. " " .. body:sub(1, 300)
  end
end

function done(summary, latency, _)
  local sums, wrongs, example, most_laps = {}, 0, "", 0
  for _, thread in ipairs(threads) do
    wrongs = wrongs + thread:get("wrong")
    most_laps = math.max(most_laps, thread:get("laps"))
    if thread:get("sample") ~= "" then
      example = thread:get("sample")
    end
    for status, count in pairs(thread:get("statuses")) do
      sums[status] = (sums[status] or 0) + count
    end
  end
  local errors = summary.errors
  io.write("\nFIGURES")
  io.write((" requests=%d seconds=%.6f"):format(summary.requests, summary.duration / 1e6))
  io.write((" broken=%d wrong=%d"):format(errors.connect + errors.read + errors.write + errors.timeout, wrongs))
  for _, part in ipairs({ 50, 95, 99 }) do
    io.write((" p%d=%.3f"):format(part, latency:percentile(part) / 1000))
  end
  io.write((" laps=%d"):format(most_laps))
  for status, count in pairs(sums) do
    io.write((" status%d=%d"):format(status, count))
  end
  io.write("\nSAMPLE " .. example:gsub("%s+", " ") .. "\n")
end
