# Answers from memory, by URL and for GET. Without modules Varnish has no table of keys and no throttle, so it does less
# than the others here: one key, no bucket, no split; a request id and its log in shared memory.
vcl 4.1;

backend stable { .host = "127.0.0.1"; .port = "@STABLE@"; }

sub vcl_recv {
    if (!req.http.X-API-Key ~ "^sk-[0-9a-f]{32}$") {
        return (synth(401));
    }
    return (hash);
}

sub vcl_backend_response {
    set beresp.ttl = 1h;
}

sub vcl_deliver {
    set resp.http.X-Request-Id = req.xid;
}
