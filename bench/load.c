/* What the relay is measured with and against, at the speed of C: a ping-pong, a router and the load of many clients.
 *
 *   load pingpong ROUNDS                         bare REQ/REP between two processes: prints p50 and p99 in nanoseconds
 *   load router                                  a ROUTER that swaps two frames: prints its endpoint, ends with its input
 *   load relay ENDPOINT CLIENTS WINDOW MS        pairs of clients, each pair with WINDOW messages under way, for MS
 *                                                milliseconds: prints messages relayed per second, p50 and p99
 *   load flood ENDPOINT TO                       one client that sends to TO all that the connection takes, until its input
 *                                                ends: prints a line when it has begun, and messages sent per second
 *
 * `relay` and `flood` read from their input one line per client: NAME, or NAME PUBLIC SECRET SERVER (Z85) for CURVE; then
 * HELLO, the hexadecimal octets that every client sends to the broker first, or `-` for a router that wants none.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>
#include <zmq.h>

enum { SIZE = 100, WARM_UP = 500, MAX_SAMPLES = 1 << 22 };

static int64_t now_ns(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return t.tv_sec * 1000000000LL + t.tv_nsec;
}

static void check(int ok, const char *what) {
    if (ok) return;
    fprintf(stderr, "load: %s: %s\n", what, zmq_strerror(zmq_errno()));
    exit(1);
}

static int compare(const void *a, const void *b) {
    int64_t x = *(const int64_t *)a, y = *(const int64_t *)b;
    return (x > y) - (x < y);
}

static void bind_free(void *socket, char *endpoint, size_t size) {
    check(zmq_bind(socket, "tcp://127.0.0.1:*") == 0, "bind");
    check(zmq_getsockopt(socket, ZMQ_LAST_ENDPOINT, endpoint, &size) == 0, "endpoint");
}

static int pingpong(long rounds) {
    int pipes[2];
    char endpoint[256], message[SIZE] = {0};
    check(pipe(pipes) == 0, "pipe");
    pid_t child = fork();
    void *context = zmq_ctx_new();
    if (child == 0) {
        void *socket = zmq_socket(context, ZMQ_REP);
        bind_free(socket, endpoint, sizeof endpoint);
        check(write(pipes[1], endpoint, sizeof endpoint) == sizeof endpoint, "tell");
        for (long i = 0; i < rounds + WARM_UP; i++) {
            int got = zmq_recv(socket, message, SIZE, 0);
            check(got == SIZE && zmq_send(socket, message, SIZE, 0) == SIZE, "answer");
        }
        zmq_close(socket);
        zmq_ctx_term(context);
        return 0;
    }
    check(read(pipes[0], endpoint, sizeof endpoint) == sizeof endpoint, "listen");
    void *socket = zmq_socket(context, ZMQ_REQ);
    int64_t *times = malloc(sizeof *times * (size_t)(rounds + WARM_UP));
    check(times && zmq_connect(socket, endpoint) == 0, "connect");
    for (long i = 0; i < rounds + WARM_UP; i++) {
        int64_t began = now_ns();
        check(zmq_send(socket, message, SIZE, 0) == SIZE && zmq_recv(socket, message, SIZE, 0) == SIZE, "ask");
        times[i] = now_ns() - began;
    }
    waitpid(child, NULL, 0);
    qsort(times + WARM_UP, (size_t)rounds, sizeof *times, compare);
    printf("%lld %lld\n", (long long)times[WARM_UP + rounds / 2], (long long)times[WARM_UP + rounds * 99 / 100]);
    zmq_close(socket);
    zmq_ctx_term(context);
    return 0;
}

static int router(void) {
    char endpoint[256];
    void *context = zmq_ctx_new(), *socket = zmq_socket(context, ZMQ_ROUTER);
    int none = 0;
    zmq_setsockopt(socket, ZMQ_SNDHWM, &none, sizeof none);
    zmq_setsockopt(socket, ZMQ_RCVHWM, &none, sizeof none);
    bind_free(socket, endpoint, sizeof endpoint);
    printf("%s\n", endpoint);
    fflush(stdout);
    zmq_pollitem_t items[2] = {{socket, 0, ZMQ_POLLIN, 0}, {NULL, 0, ZMQ_POLLIN | ZMQ_POLLERR, 0}};
    while (zmq_poll(items, 2, -1) >= 0 && !(items[1].revents)) {
        for (int i = 0; i < 256; i++) {
            zmq_msg_t origin, target, message;
            zmq_msg_init(&origin);
            if (zmq_msg_recv(&origin, socket, ZMQ_DONTWAIT) < 0) break;
            zmq_msg_init(&target);
            zmq_msg_init(&message);
            check(zmq_msg_recv(&target, socket, 0) >= 0 && zmq_msg_recv(&message, socket, 0) >= 0, "take");
            check(zmq_msg_send(&target, socket, ZMQ_SNDMORE) >= 0, "pass target");
            check(zmq_msg_send(&origin, socket, ZMQ_SNDMORE) >= 0, "pass origin");
            check(zmq_msg_send(&message, socket, 0) >= 0, "pass message");
        }
    }
    zmq_close(socket);
    zmq_ctx_term(context);
    return 0;
}

typedef struct {
    void *socket;
    char name[80], partner[80];
} Client;

static void transmit(Client *client, const char *to, const void *data, size_t size) {
    check(zmq_send(client->socket, to, strlen(to), ZMQ_SNDMORE) >= 0, "address");
    check(zmq_send(client->socket, data, size, 0) >= 0, "say");
}

static void join(void *context, Client *client, const char *endpoint) {
    char line[256], public[64], secret[64], server[64];
    check(fgets(line, sizeof line, stdin) != NULL, "no line for a client");
    int words = sscanf(line, "%79s %63s %63s %63s", client->name, public, secret, server);
    client->socket = zmq_socket(context, ZMQ_DEALER);
    int none = 0;
    zmq_setsockopt(client->socket, ZMQ_LINGER, &none, sizeof none);
    if (words == 4) {
        check(zmq_setsockopt(client->socket, ZMQ_CURVE_PUBLICKEY, public, 41) == 0, "public key");
        check(zmq_setsockopt(client->socket, ZMQ_CURVE_SECRETKEY, secret, 41) == 0, "secret key");
        check(zmq_setsockopt(client->socket, ZMQ_CURVE_SERVERKEY, server, 41) == 0, "server key");
    } else {
        zmq_setsockopt(client->socket, ZMQ_ROUTING_ID, client->name, strlen(client->name));
    }
    check(zmq_connect(client->socket, endpoint) == 0, "connect");
}

/* Greet the broker and hear its answer; or, where nobody is to be greeted, hear oneself. */
static void greet(Client *client, const char *hello) {
    unsigned char octets[1024];
    size_t size = 0;
    for (; hello[2 * size] > ' ' && hello[0] != '-' && size < sizeof octets; size++)
        sscanf(hello + 2 * size, "%2hhx", &octets[size]);
    transmit(client, size ? "broker" : client->name, octets, size);
    for (int more = 1; more;) {
        size_t length = sizeof more;
        check(zmq_recv(client->socket, octets, sizeof octets, 0) >= 0, "hear");
        zmq_getsockopt(client->socket, ZMQ_RCVMORE, &more, &length);
    }
}

static int relay(const char *endpoint, int clients, int window, int ms) {
    void *context = zmq_ctx_new();
    zmq_ctx_set(context, ZMQ_MAX_SOCKETS, clients + 16);
    Client *all = calloc((size_t)clients, sizeof *all);
    zmq_pollitem_t *items = calloc((size_t)clients, sizeof *items);
    int64_t *samples = malloc(sizeof *samples * MAX_SAMPLES);
    char hello[2100];
    check(all && items && samples, "memory");
    for (int i = 0; i < clients; i++) join(context, &all[i], endpoint);
    check(fgets(hello, sizeof hello, stdin) != NULL, "no hello");
    for (int i = 0; i < clients; i++) {
        greet(&all[i], hello);
        strcpy(all[i].partner, all[i ^ 1].name);
        items[i] = (zmq_pollitem_t){all[i].socket, 0, ZMQ_POLLIN, 0};
    }
    char message[SIZE] = {0}, sender[80];
    int64_t began = now_ns(), warm = began + ms * 200000LL, end = began + ms * 1000000LL;
    for (int i = 0; i < clients; i += 2)
        for (int k = 0; k < window; k++) {
            memcpy(message, &began, sizeof began);
            transmit(&all[i], all[i].partner, message, SIZE);
        }
    long relayed = 0, taken = 0;
    for (int64_t now = began; now < end; now = now_ns()) {
        check(zmq_poll(items, clients, 1000) > 0, "nothing comes any more");
        for (int i = 0; i < clients; i++) {
            if (!(items[i].revents & ZMQ_POLLIN)) continue;
            for (int k = 0; k < window; k++) {
                int named = zmq_recv(all[i].socket, sender, sizeof sender, ZMQ_DONTWAIT);
                if (named < 0) break;
                int size = zmq_recv(all[i].socket, message, SIZE, 0);
                if (named == 6 && !memcmp(sender, "broker", 6)) { /* a heartbeat, or a complaint that makes the figures void */
                    check(!memmem(message, SIZE, "session.error", 13), "the broker complains");
                    continue;
                }
                check(size == SIZE, "something else came");
                int64_t at = now_ns(), sent;
                if (at >= warm) relayed++;
                if (!(i & 1)) {
                    memcpy(&sent, message, sizeof sent);
                    if (at >= warm && taken < MAX_SAMPLES) samples[taken++] = at - sent;
                    memcpy(message, &at, sizeof at);
                }
                transmit(&all[i], all[i].partner, message, SIZE);
            }
        }
    }
    double seconds = (double)(now_ns() - warm) / 1e9;
    qsort(samples, (size_t)taken, sizeof *samples, compare);
    printf("%.0f %lld %lld\n", (double)relayed / seconds, (long long)samples[taken / 2], (long long)samples[taken * 99 / 100]);
    for (int i = 0; i < clients; i++) zmq_close(all[i].socket);
    zmq_ctx_term(context);
    return 0;
}

static int flood(const char *endpoint, const char *to) {
    void *context = zmq_ctx_new();
    Client client;
    char hello[2100], message[SIZE] = {0}, heard[4096];
    join(context, &client, endpoint);
    check(fgets(hello, sizeof hello, stdin) != NULL, "no hello");
    greet(&client, hello);
    puts("begun");
    fflush(stdout);
    zmq_pollitem_t items[2] = {{client.socket, 0, ZMQ_POLLOUT, 0}, {NULL, 0, ZMQ_POLLIN | ZMQ_POLLERR, 0}};
    long sent = 0;
    int64_t began = now_ns();
    while (zmq_poll(items, 2, -1) >= 0 && !items[1].revents) {
        for (int i = 0; i < 256 && zmq_send(client.socket, to, strlen(to), ZMQ_SNDMORE | ZMQ_DONTWAIT) >= 0; i++, sent++)
            check(zmq_send(client.socket, message, SIZE, 0) >= 0, "say");
        while (zmq_recv(client.socket, heard, sizeof heard, ZMQ_DONTWAIT) >= 0) {}
    }
    printf("%.0f\n", (double)sent / ((double)(now_ns() - began) / 1e9));
    zmq_close(client.socket);
    zmq_ctx_term(context);
    return 0;
}

int main(int count, char **words) {
    if (count == 3 && !strcmp(words[1], "pingpong")) return pingpong(atol(words[2]));
    if (count == 2 && !strcmp(words[1], "router")) return router();
    if (count == 6 && !strcmp(words[1], "relay")) return relay(words[2], atoi(words[3]), atoi(words[4]), atoi(words[5]));
    if (count == 4 && !strcmp(words[1], "flood")) return flood(words[2], words[3]);
    fprintf(stderr, "load: pingpong ROUNDS | router | relay ENDPOINT CLIENTS WINDOW MS | flood ENDPOINT TO\n");
    return 2;
}
