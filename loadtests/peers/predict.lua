-- What the bench sends: a prediction of about 300 bytes, as a small client library would.
wrk.method = "POST"
wrk.body = '{"inputs":[{"name":"x","shape":[1,16],"datatype":"FP32","data":[0.11,0.22,0.33,0.44,0.55,0.66,0.77,0.88,'
  .. '0.99,1.01,1.12,1.23,1.34,1.45,1.56,1.67]}],"parameters":{"temperature":0.7,"top_p":0.95,"user":"user-000001"},'
  .. '"id":"abcdefabcdefabcdefabcdef0123456789abcdef"}'
wrk.headers["Content-Type"] = "application/json"
wrk.headers["Accept"] = "application/json"
wrk.headers["User-Agent"] = "bench/1.0"
wrk.headers["X-API-Key"] = "demo-0123456789abcdef0123456789abcdef"
