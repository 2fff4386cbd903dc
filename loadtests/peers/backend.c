/* The instance behind every peer of the bench. One thread, epoll, nothing allocated per request, so that what is
 * measured is the gateway. Not a server: it trusts its input (the bench's own gateways on 127.0.0.1).
 *
 *     backend NAME PORT...      answers on every PORT with `X-Instance: NAME`
 *
 *     /bytes/N    N bytes
 *     /count      how many requests it has answered so far, questions like this and the next left out
 *     /v2/models/m1, asked by GET: what the model takes and gives (KServe V2)
 *     all else    200 bytes of JSON
 *
 * A request's body (Content-Length only) is read and dropped; the connection is kept until its peer closes it.
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <sys/uio.h>
#include <unistd.h>

enum { BUFFER = 64 * 1024, BLOCK = 1024 * 1024, EVENTS = 256, HEAD = 512 };

struct connection {
    int fd;       /* of a listening socket, where `listening` */
    int listening;
    int blocked;      /* the kernel took no more of the answer: wait for EPOLLOUT */
    size_t used;      /* bytes in the buffer */
    size_t unread;    /* of the request's body, still to be dropped */
    size_t head_size; /* of the answer's head in `head`, 0: no answer under way */
    size_t head_sent;
    size_t body_left; /* of the answer's body, still to be sent */
    const char *body; /* BLOCK bytes that are sent again and again, or all there is */
    char head[HEAD];
    char buffer[BUFFER + 1];
};

static const char PREDICTION[] =
    "{\"model_name\":\"m1\",\"model_version\":\"1\",\"id\":\"0123456789abcdef\",\"outputs\":[{\"name\":\"logits\","
    "\"shape\":[1,8],\"datatype\":\"FP32\",\"data\":[0.1234,0.5678,0.9012,0.3456,0.7891,0.2345,0.6789,0.0123]}]}";
static const char METADATA[] =
    "{\"name\":\"m1\",\"versions\":[\"1\"],\"platform\":\"bench\",\"inputs\":[{\"name\":\"x\",\"datatype\":\"FP32\","
    "\"shape\":[-1,16]}],\"outputs\":[{\"name\":\"logits\",\"datatype\":\"FP32\",\"shape\":[-1,8]}]}";
static char block[BLOCK], counted[32];
static const char *name;
static unsigned long answered;
static int epoll;

static void die(const char *what) {
    perror(what);
    exit(1);
}

static struct connection *watched(int fd, int listening) {
    struct connection *c = calloc(1, sizeof *c);
    if (!c) die("calloc");
    c->fd = fd;
    c->listening = listening;
    struct epoll_event event = {.events = EPOLLIN, .data.ptr = c};
    if (epoll_ctl(epoll, EPOLL_CTL_ADD, fd, &event)) die("epoll_ctl");
    return c;
}

static void listen_on(int port) {
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK, 0), on = 1;
    struct sockaddr_in address = {
        .sin_family = AF_INET, .sin_port = htons(port), .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &on, sizeof on);
    if (bind(fd, (struct sockaddr *)&address, sizeof address) || listen(fd, 4096)) die("bind");
    watched(fd, 1);
}

static void accept_all(int listening) {
    int fd, on = 1;
    while ((fd = accept4(listening, NULL, NULL, SOCK_NONBLOCK)) >= 0) {
        setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
        watched(fd, 0);
    }
}

/* Start the answer to the request whose head stands, ended by 0, at the buffer's beginning. */
static void answer(struct connection *c) {
    const char *target = strchr(c->buffer, ' '), *type = "application/json";
    size_t size = sizeof PREDICTION - 1;
    c->body = PREDICTION;
    if (target && !strncmp(target, " /bytes/", 8)) {
        size = strtoul(target + 8, NULL, 10);
        type = "application/octet-stream";
        c->body = block;
    } else if (target && !strncmp(target, " /count", 7)) {
        size = (size_t)snprintf(counted, sizeof counted, "%lu", answered);
        answered--;
        c->body = counted;
    } else if (!strncmp(c->buffer, "GET /v2/models/m1 ", 18)) {
        size = sizeof METADATA - 1;
        answered--;
        c->body = METADATA;
    }
    answered++;
    c->body_left = size;
    c->head_sent = 0;
    c->head_size = (size_t)snprintf(c->head, HEAD,
                                    "HTTP/1.1 200 OK\r\nServer: backend\r\nDate: Thu, 01 Jan 2026 00:00:00 GMT\r\n"
                                    "X-Instance: %s\r\nContent-Type: %s\r\nContent-Length: %zu\r\n\r\n",
                                    name, type, size);
}

/* Read one request of the buffer, as far as it is there. 1: an answer is under way; 0: more bytes are needed. */
static int take_request(struct connection *c) {
    if (!c->head_size) {
        char *end = memmem(c->buffer, c->used, "\r\n\r\n", 4);
        if (!end) return 0;
        *end = 0;
        char *field = strcasestr(c->buffer, "\r\ncontent-length:");
        c->unread = field ? strtoul(field + 17, NULL, 10) : 0;
        answer(c);
        size_t head = (size_t)(end - c->buffer) + 4;
        c->used -= head;
        memmove(c->buffer, c->buffer + head, c->used);
    }
    size_t dropped = c->unread < c->used ? c->unread : c->used;
    c->unread -= dropped;
    c->used -= dropped;
    memmove(c->buffer, c->buffer + dropped, c->used);
    c->buffer[c->used] = 0;
    return !c->unread;
}

/* Send the answer under way. 1: it is all sent; 0: the kernel takes no more now; -1: the connection is gone. */
static int send_answer(struct connection *c) {
    while (c->head_sent < c->head_size || c->body_left) {
        size_t piece = c->body_left < BLOCK ? c->body_left : BLOCK;
        struct iovec parts[2] = {{c->head + c->head_sent, c->head_size - c->head_sent}, {(void *)c->body, piece}};
        struct msghdr message = {.msg_iov = parts, .msg_iovlen = 2};
        ssize_t sent = sendmsg(c->fd, &message, MSG_NOSIGNAL);
        if (sent < 0) return errno == EAGAIN ? 0 : -1;
        size_t of_head = c->head_size - c->head_sent;
        if ((size_t)sent < of_head) of_head = (size_t)sent;
        c->head_sent += of_head;
        c->body_left -= (size_t)sent - of_head;
    }
    c->head_size = 0;
    return 1;
}

static void wait_for(struct connection *c, uint32_t events) {
    struct epoll_event event = {.events = events, .data.ptr = c};
    if (epoll_ctl(epoll, EPOLL_CTL_MOD, c->fd, &event)) die("epoll_ctl");
}

/* 0: close it. */
static int serve(struct connection *c) {
    if (!c->blocked) {
        ssize_t got = recv(c->fd, c->buffer + c->used, BUFFER - c->used, 0);
        if (got < 0 && errno == EAGAIN) return 1;
        if (got <= 0) return 0;
        c->used += (size_t)got;
        c->buffer[c->used] = 0;
    }
    while (c->blocked || take_request(c)) {
        int sent = send_answer(c);
        if (sent < 0) return 0;
        if (c->blocked != !sent) wait_for(c, sent ? EPOLLIN : EPOLLOUT);
        c->blocked = !sent;
        if (!sent) return 1;
    }
    return c->used < BUFFER;
}

int main(int count, char **arguments) {
    if (count < 3) return fprintf(stderr, "backend NAME PORT...\n"), 2;
    name = arguments[1];
    memset(block, 'x', BLOCK);
    epoll = epoll_create1(0);
    for (int i = 2; i < count; i++) listen_on(atoi(arguments[i]));
    struct epoll_event events[EVENTS];
    for (;;) {
        int ready = epoll_wait(epoll, events, EVENTS, -1);
        for (int i = 0; i < ready; i++) {
            struct connection *c = events[i].data.ptr;
            if (c->listening) {
                accept_all(c->fd);
            } else if (!serve(c)) {
                close(c->fd);
                free(c);
            }
        }
    }
}
