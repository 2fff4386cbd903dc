# Plain proxying: nothing is looked up, nothing is kept. Varnish always logs, into shared memory.
vcl 4.1;

backend stable { .host = "127.0.0.1"; .port = "@STABLE@"; }

sub vcl_recv {
    return (pass);
}
