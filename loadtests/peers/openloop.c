/* Requests at a fixed rate, whatever the answers do: an open loop.
 *
 *     openloop PORT RATE COUNT CONNECTIONS < REQUESTS > TIMES
 *
 * Request i is due at i / RATE seconds. It is sent then, or, while all CONNECTIONS are waiting for answers, as soon as one
 * is free; its time counts from the instant it was due, so that a server that stalls is seen to have stalled by everybody
 * who would have come meanwhile (Tene: coordinated omission). REQUESTS are whole requests, each followed by a NUL, sent in
 * turn. TIMES is a line per request: due, sent, answered (ns since the first was due), status; status 0: never answered.
 * Answers need a Content-Length.
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
#include <sys/prctl.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

enum { BUFFER = 16 * 1024, REQUESTS = 4096, SECOND = 1000000000, PATIENCE = 5 };

struct connection {
    int fd;
    long request; /* whose answer it waits for */
    size_t used;
    char buffer[BUFFER + 1];
};
struct times {
    int64_t sent, answered;
    int status;
};

static char *requests[REQUESTS], text[REQUESTS * 1024];
static size_t sizes[REQUESTS];
static long kinds;

static void die(const char *what) {
    perror(what);
    exit(1);
}

static int64_t now(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (int64_t)t.tv_sec * SECOND + t.tv_nsec;
}

static void read_requests(void) {
    size_t size = fread(text, 1, sizeof text - 1, stdin);
    for (char *one = text; one < text + size && kinds < REQUESTS; one += sizes[kinds++] + 1) {
        requests[kinds] = one;
        sizes[kinds] = strlen(one);
    }
    if (!kinds) exit(2);
}

static void connect_to(struct connection *c, int port, int epoll) {
    struct sockaddr_in address = {
        .sin_family = AF_INET, .sin_port = htons(port), .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    struct epoll_event event = {.events = EPOLLIN, .data.ptr = c};
    int on = 1;
    c->fd = socket(AF_INET, SOCK_STREAM, 0);
    if (connect(c->fd, (struct sockaddr *)&address, sizeof address)) die("connect");
    setsockopt(c->fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
    if (epoll_ctl(epoll, EPOLL_CTL_ADD, c->fd, &event)) die("epoll_ctl");
}

/* The status once the whole answer is in the buffer; 0: not yet, -1: the connection is gone. */
static int take_answer(struct connection *c) {
    ssize_t got = recv(c->fd, c->buffer + c->used, BUFFER - c->used, MSG_DONTWAIT);
    if (got < 0 && errno == EAGAIN) return 0;
    if (got <= 0) return -1;
    c->used += (size_t)got;
    c->buffer[c->used] = 0;
    char *end = strstr(c->buffer, "\r\n\r\n");
    if (!end) return 0;
    char *field = strcasestr(c->buffer, "\r\ncontent-length:");
    size_t body = field && field < end ? strtoul(field + 17, NULL, 10) : 0;
    return c->used >= (size_t)(end - c->buffer) + 4 + body ? atoi(c->buffer + 9) : 0;
}

int main(int count, char **arguments) {
    if (count != 5) return fprintf(stderr, "openloop PORT RATE COUNT CONNECTIONS\n"), 2;
    int port = atoi(arguments[1]), connections = atoi(arguments[4]), epoll = epoll_create1(0), idle = 0;
    double gap = SECOND / atof(arguments[2]);
    long total = atol(arguments[3]), sent = 0, answered = 0;
    read_requests();
    prctl(PR_SET_TIMERSLACK, 1);
    struct times *times = calloc((size_t)total, sizeof *times);
    struct connection **free_ones = calloc((size_t)connections, sizeof *free_ones);
    for (; idle < connections; idle++) {
        free_ones[idle] = calloc(1, sizeof **free_ones);
        connect_to(free_ones[idle], port, epoll);
    }
    int64_t start = now() + 1000000, last = start + (int64_t)((double)total * gap) + (int64_t)PATIENCE * SECOND;
    struct epoll_event events[256];
    while (answered < total && now() < last) {
        while (sent < total && idle && start + (int64_t)((double)sent * gap) <= now()) {
            struct connection *c = free_ones[--idle];
            c->request = sent;
            c->used = 0;
            times[sent].sent = now() - start;
            if (send(c->fd, requests[sent % kinds], sizes[sent % kinds], MSG_NOSIGNAL) < 0) answered++;
            sent++;
        }
        int64_t wait = sent < total && idle ? start + (int64_t)((double)sent * gap) - now() : SECOND / 10;
        struct timespec patience = {wait > 0 ? wait / SECOND : 0, wait > 0 ? wait % SECOND : 0};
        int ready = epoll_pwait2(epoll, events, 256, &patience, NULL);
        for (int i = 0; i < ready; i++) {
            struct connection *c = events[i].data.ptr;
            int status = take_answer(c);
            if (!status) continue;
            answered++;
            if (status < 0) {
                epoll_ctl(epoll, EPOLL_CTL_DEL, c->fd, NULL);
                continue;
            }
            times[c->request].answered = now() - start;
            times[c->request].status = status;
            free_ones[idle++] = c;
        }
    }
    for (long i = 0; i < total; i++)
        printf("%lld %lld %lld %d\n", (long long)((double)i * gap), (long long)times[i].sent,
               (long long)times[i].answered, times[i].status);
}
