-- What the bench sends: a prediction of about 300 bytes, as a small client library would.
--
--     wrk ... URL -- METHOD TARGET BODY TURNS CLOSE
--
-- BODY: bytes of the body; 0: the prediction (none for GET). TURNS: a file of lines `TARGET KEY` that are sent in turn, -:
-- always TARGET, with a key that nobody looks at. CLOSE: `close` asks for a connection per request.
local prediction = '{"inputs":[{"name":"x","shape":[1,16],"datatype":"FP32","data":[0.11,0.22,0.33,0.44,0.55,0.66,0.77,0.88,'
  .. '0.99,1.01,1.12,1.23,1.34,1.45,1.56,1.67]}],"parameters":{"units":"metric","batch":"nightly","user":"user-000001","caller":"pricing/1.4"},'
  .. '"id":"abcdefabcdefabcdefabcdef0123456789abcdef"}'

-- Only then a function is called per request: it costs the client, which has a core of its own.
local function take_turns(turns)
  local requests, turn = {}, 0
  for line in io.lines(turns) do
    local target, key = line:match("^(%S+) (%S+)$")
    wrk.headers["X-API-Key"] = key
    requests[#requests + 1] = wrk.format(nil, target)
  end
  function request()
    turn = turn % #requests + 1
    return requests[turn]
  end
end

function init(arguments)
  local size, turns = tonumber(arguments[3]), arguments[4]
  wrk.method, wrk.path = arguments[1], arguments[2]
  if wrk.method ~= "GET" then
    wrk.body = size > 0 and string.rep("x", size) or prediction
    wrk.headers["Content-Type"] = "application/json"
  end
  wrk.headers["Accept"] = "application/json"
  wrk.headers["User-Agent"] = "bench/1.0"
  wrk.headers["X-API-Key"] = "sk-0123456789abcdef0123456789abcdef"
  if arguments[5] == "close" then wrk.headers["Connection"] = "close" end
  if turns ~= "-" then take_turns(turns) end
end
