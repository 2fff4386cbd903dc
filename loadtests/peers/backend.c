/* The instance behind every peer of the bench: reads a request with Content-Length (or none), answers 200 with 200
 * bytes of JSON, keeps the connection. One thread, epoll, no allocation per request, so that what is measured is the
 * gateway. Not a server: it trusts its input (the bench's own gateways on 127.0.0.1).
 *
 * backend PORT
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <unistd.h>

enum { BUFFER = 64 * 1024, EVENTS = 256 };

struct connection {
    int fd;
    size_t used;
    char buffer[BUFFER + 1];
};

static const char BODY[] =
    "{\"model_name\":\"m1\",\"model_version\":\"1\",\"id\":\"0123456789abcdef\",\"outputs\":[{\"name\":\"logits\","
    "\"shape\":[1,8],\"datatype\":\"FP32\",\"data\":[0.1234,0.5678,0.9012,0.3456,0.7891,0.2345,0.6789,0.0123]}]}";
static char response[1024];
static size_t response_size;

static void die(const char *what) {
    perror(what);
    exit(1);
}

static int listen_on(int port) {
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK, 0), on = 1;
    struct sockaddr_in address = {
        .sin_family = AF_INET, .sin_port = htons(port), .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &on, sizeof on);
    if (bind(fd, (struct sockaddr *)&address, sizeof address) || listen(fd, 1024)) die("bind");
    return fd;
}

static void watch(int epoll, int fd, void *data) {
    struct epoll_event event = {.events = EPOLLIN, .data.ptr = data};
    if (epoll_ctl(epoll, EPOLL_CTL_ADD, fd, &event)) die("epoll_ctl");
}

static void accept_all(int epoll, int listening) {
    int fd, on = 1;
    while ((fd = accept4(listening, NULL, NULL, SOCK_NONBLOCK)) >= 0) {
        struct connection *c = malloc(sizeof *c);
        if (!c) die("malloc");
        c->fd = fd;
        c->used = 0;
        setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
        watch(epoll, fd, c);
    }
}

/* Bytes of the first complete request in the buffer, 0 while it is incomplete. */
static size_t request_size(struct connection *c) {
    char *end = memmem(c->buffer, c->used, "\r\n\r\n", 4);
    if (!end) return 0;
    *end = 0;
    char *field = strcasestr(c->buffer, "\r\ncontent-length:");
    size_t size = (size_t)(end - c->buffer) + 4 + (field ? strtoul(field + 17, NULL, 10) : 0);
    *end = '\r';
    return size <= c->used ? size : 0;
}

static int serve(struct connection *c) {
    ssize_t got = recv(c->fd, c->buffer + c->used, BUFFER - c->used, 0);
    if (got < 0 && errno == EAGAIN) return 1;
    if (got <= 0) return 0;
    c->used += (size_t)got;
    c->buffer[c->used] = 0;
    for (size_t size; (size = request_size(c)); c->buffer[c->used] = 0) {
        if (send(c->fd, response, response_size, MSG_NOSIGNAL) != (ssize_t)response_size) return 0;
        c->used -= size;
        memmove(c->buffer, c->buffer + size, c->used);
    }
    return c->used < BUFFER;
}

int main(int count, char **arguments) {
    if (count != 2) return fprintf(stderr, "backend PORT\n"), 2;
    response_size = (size_t)snprintf(response, sizeof response,
                                     "HTTP/1.1 200 OK\r\nServer: backend\r\nDate: Thu, 01 Jan 2026 00:00:00 GMT\r\n"
                                     "Content-Type: application/json\r\nContent-Length: %zu\r\n\r\n%s",
                                     sizeof BODY - 1, BODY);
    int listening = listen_on(atoi(arguments[1])), epoll = epoll_create1(0);
    struct epoll_event events[EVENTS];
    watch(epoll, listening, NULL);
    for (;;) {
        int ready = epoll_wait(epoll, events, EVENTS, -1);
        for (int i = 0; i < ready; i++) {
            struct connection *c = events[i].data.ptr;
            if (!c) {
                accept_all(epoll, listening);
            } else if (!serve(c)) {
                close(c->fd);
                free(c);
            }
        }
    }
}
