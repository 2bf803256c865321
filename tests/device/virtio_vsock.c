/*
 * tests/device/virtio_vsock.c: streams in both directions between a driver made
 * by hand and real Unix sockets: credit, ends of every kind, hostile packets.
 */
#include "tests/device/virtio_guest.h"

#include <errno.h>
#include <poll.h>
#include <stdio.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include "device/virtio/vsock.h"

#define CID    7
#define WINDOW 131072u

enum { RX, TX };
enum { REQUEST = 1, RESPONSE, RST, SHUTDOWN, RW, CREDIT_UPDATE, CREDIT_REQUEST };

struct header {
    uint64_t src_cid, dst_cid;
    uint32_t src_port, dst_port, len;
    uint16_t type, op;
    uint32_t flags, buf_alloc, fwd_cnt;
} __attribute__((packed));

struct vsock_test {
    struct vg g;
    struct vsock_host *host;
    struct virtio_vsock *vsock;
    char dir[32], path[64], port_path[64]; /* what the guest's port 80 leads to */
    int listener;
    struct header got; /* the last packet */
    uint32_t buf_alloc, fwd_cnt;
};

static int listen_at(const char *path)
{
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK, 0);

    strcpy(address.sun_path, path);
    assert_int_equal(bind(fd, (struct sockaddr *)&address, sizeof(address)) | listen(fd, 100), 0);
    return fd;
}

static int connect_to(const char *path)
{
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK, 0);

    strcpy(address.sun_path, path);
    assert_int_equal(connect(fd, (struct sockaddr *)&address, sizeof(address)), 0);
    return fd;
}

static int setup(void **state)
{
    struct vsock_test *t = calloc(1, sizeof(*t));

    vg_open(&t->g);
    strcpy(t->dir, "/tmp/vsock-test-XXXXXX");
    assert_non_null(mkdtemp(t->dir));
    snprintf(t->path, sizeof(t->path), "%s/v", t->dir);
    snprintf(t->port_path, sizeof(t->port_path), "%s/v_80", t->dir);
    t->listener = listen_at(t->port_path);
    t->host = vsock_host_new(t->g.f.loop, t->path, NULL);
    assert_non_null(t->host);
    t->vsock = virtio_vsock_new(t->g.host, t->g.mem, t->g.f.loop, t->host, CID, NULL);
    assert_non_null(t->vsock);
    vg_start(&t->g, 0, 3);
    assert_int_equal(vg_get(&t->g, 0x2000, 4), CID);
    t->buf_alloc = WINDOW;
    *state = t;
    return 0;
}

static int teardown(void **state)
{
    struct vsock_test *t = *state;

    virtio_vsock_free(t->vsock);
    vsock_host_free(t->host);
    assert_int_equal(access(t->path, F_OK), -1);
    close(t->listener);
    unlink(t->port_path);
    rmdir(t->dir);
    vg_close(&t->g);
    free(t);
    return 0;
}

/* --- the guest ---------------------------------------------------------------------------------- */

static void send_raw(struct vsock_test *t, const struct header *header, uint32_t payload)
{
    const struct vg_buffer b[] = {{VG_DATA, sizeof(*header), 0}, {VG_DATA + 0x10000, payload, 0}};

    memcpy(vg_ram(&t->g, VG_DATA), header, sizeof(*header));
    vg_add(&t->g, TX, b, payload ? 2 : 1);
    vg_kick(&t->g, TX);
    loop_poll(t->g.f.loop);
}

static void guest_sends(struct vsock_test *t, uint32_t guest_port, uint32_t host_port, uint16_t op, uint32_t flags,
                        uint32_t len)
{
    const struct header header = {
        .src_cid = CID,
        .dst_cid = 2,
        .src_port = guest_port,
        .dst_port = host_port,
        .len = len,
        .type = 1,
        .op = op,
        .flags = flags,
        .buf_alloc = t->buf_alloc,
        .fwd_cnt = t->fwd_cnt,
    };

    send_raw(t, &header, len);
    assert_int_equal(vg_used(&t->g, TX, len ? 2 : 1), 0);
}

/* Offers a buffer; its data is at VG_DATA + 0x40000. False: nothing came, and the buffer stays. */
static bool take(struct vsock_test *t)
{
    static const struct vg_buffer b[] = {{VG_DATA + 0x30000, sizeof(struct header), VG_WRITE},
                                         {VG_DATA + 0x40000, 65536, VG_WRITE}};
    int64_t n;

    vg_add(&t->g, RX, b, 2);
    vg_kick(&t->g, RX);
    loop_poll(t->g.f.loop);
    n = vg_used(&t->g, RX, 2);
    if (n < 0) { /* take it back: the ring's index too */
        VG_PUT(&t->g, vg_area(RX, 1) + 2, uint16_t, --t->g.queue[RX].avail);
        return false;
    }
    memcpy(&t->got, vg_ram(&t->g, VG_DATA + 0x30000), sizeof(t->got));
    assert_int_equal(n, sizeof(t->got) + t->got.len);
    assert_int_equal(t->got.src_cid, 2);
    assert_int_equal(t->got.dst_cid, CID);
    return true;
}

static void guest_gets(struct vsock_test *t, uint32_t guest_port, uint16_t op, uint32_t flags, uint32_t len)
{
    assert_true(take(t));
    assert_int_equal(t->got.dst_port, guest_port);
    assert_int_equal(t->got.op, op);
    assert_int_equal(t->got.flags, flags);
    assert_int_equal(t->got.len, len);
}

static const char *guest_data(struct vsock_test *t)
{
    return (const char *)vg_ram(&t->g, VG_DATA + 0x40000);
}

static void guest_writes(struct vsock_test *t, uint32_t guest_port, uint32_t host_port, const char *text)
{
    memcpy(vg_ram(&t->g, VG_DATA + 0x10000), text, strlen(text));
    guest_sends(t, guest_port, host_port, RW, 0, (uint32_t)strlen(text));
}

/* --- the host ------------------------------------------------------------------------------------- */

static void host_writes(struct vsock_test *t, int fd, const char *text)
{
    assert_int_equal(write(fd, text, strlen(text)), strlen(text));
    loop_poll(t->g.f.loop);
}

static void host_reads(int fd, const char *text)
{
    char got[256];
    ssize_t n = read(fd, got, sizeof(got) - 1);

    assert_int_equal(n, strlen(text));
    assert_memory_equal(got, text, strlen(text));
}

static void host_ended(int fd)
{
    char c;

    assert_int_equal(read(fd, &c, 1), 0);
}

/* A stream the guest has opened. Returns the host's end. */
static int open_from_guest(struct vsock_test *t, uint32_t guest_port)
{
    int fd;

    guest_sends(t, guest_port, 80, REQUEST, 0, 0);
    guest_gets(t, guest_port, RESPONSE, 0, 0);
    assert_int_equal(t->got.src_port, 80);
    assert_int_equal(t->got.buf_alloc, WINDOW);
    fd = accept4(t->listener, NULL, NULL, SOCK_NONBLOCK);
    assert_true(fd >= 0);
    return fd;
}

/* One the host has opened. Returns its port. */
static uint32_t open_from_host(struct vsock_test *t, uint32_t guest_port, int *fd)
{
    char line[32];
    uint32_t port;

    *fd = connect_to(t->path);
    snprintf(line, sizeof(line), "CONNECT %u\nhi", guest_port);
    host_writes(t, *fd, line);
    guest_gets(t, guest_port, REQUEST, 0, 0);
    port = t->got.src_port;
    guest_sends(t, guest_port, port, RESPONSE, 0, 0);
    snprintf(line, sizeof(line), "OK %u\n", port);
    host_reads(*fd, line);
    guest_gets(t, guest_port, RW, 0, 2);
    assert_memory_equal(guest_data(t), "hi", 2);
    return port;
}

/* --- tests ------------------------------------------------------------------------------------------ */

static void test_from_guest(void **state)
{
    struct vsock_test *t = *state;
    int fd = open_from_guest(t, 1000);

    guest_writes(t, 1000, 80, "hello");
    host_reads(fd, "hello");
    host_writes(t, fd, "and you");
    guest_gets(t, 1000, RW, 0, 7);
    assert_memory_equal(guest_data(t), "and you", 7);
    assert_int_equal(t->got.fwd_cnt, 5);
    assert_false(take(t));
    guest_sends(t, 1000, 80, SHUTDOWN, 2, 0); /* it has said all */
    host_ended(fd);
    host_writes(t, fd, "more");
    guest_gets(t, 1000, RW, 0, 4);
    guest_sends(t, 1000, 80, SHUTDOWN, 3, 0);
    guest_gets(t, 1000, RST, 0, 0);
    close(fd);
    guest_sends(t, 1001, 81, REQUEST, 0, 0); /* nobody listens there */
    guest_gets(t, 1001, RST, 0, 0);
    assert_int_equal(t->got.src_port, 81);
}

static void test_from_host(void **state)
{
    struct vsock_test *t = *state;
    int fd;
    uint32_t port = open_from_host(t, 22, &fd);

    guest_writes(t, 22, port, "data");
    host_reads(fd, "data");
    assert_int_equal(shutdown(fd, SHUT_WR), 0);
    loop_poll(t->g.f.loop);
    guest_gets(t, 22, SHUTDOWN, 2, 0);
    guest_writes(t, 22, port, "still heard");
    host_reads(fd, "still heard");
    close(fd);
    loop_poll(t->g.f.loop);
    guest_gets(t, 22, SHUTDOWN, 3, 0);
    guest_sends(t, 22, port, RST, 0, 0);
    assert_false(take(t));
    guest_writes(t, 22, port, "x"); /* it is forgotten */
    guest_gets(t, 22, RST, 0, 0);
}

static void test_refused(void **state)
{
    static const char *const lines[] = {
        "CONNECT\n", "CONNECT x\n",          "CONNECT 1x\n", "CONNECT -1\n",
        "hello\n",   "CONNECT 4294967296\n", "\n",           "CONNECT 99999999999999999999999999999999999\n"};
    struct vsock_test *t = *state;
    int fd;

    for (unsigned i = 0; i < ARRAY_SIZE(lines); i++) {
        fd = connect_to(t->path);
        host_writes(t, fd, lines[i]);
        assert_true(read(fd, &(char){0}, 1) <= 0 && errno != EAGAIN);
        close(fd);
    }
    fd = connect_to(t->path); /* the guest says no */
    host_writes(t, fd, "CONNECT 23\n");
    guest_gets(t, 23, REQUEST, 0, 0);
    guest_sends(t, 23, t->got.src_port, RST, 0, 0);
    host_ended(fd);
    close(fd);
    fd = connect_to(t->path); /* or nothing at all */
    host_writes(t, fd, "CONNECT 23\n");
    guest_gets(t, 23, REQUEST, 0, 0);
    for (unsigned i = 0; i < 15; i++) {
        vclock_advance_ns(t->g.f.clock, 1000000000);
        loop_poll(t->g.f.loop);
    }
    guest_gets(t, 23, RST, 0, 0);
    host_ended(fd);
    close(fd);
    vg_put(&t->g, 0x14, 0, 1); /* or it has no driver */
    fd = connect_to(t->path);
    host_writes(t, fd, "CONNECT 23\n");
    host_ended(fd);
    close(fd);
}

/* The program does not read: the guest may send as much as it was granted, and hears when there is room again. */
static void test_window(void **state)
{
    struct vsock_test *t = *state;
    int fd = open_from_guest(t, 1000);
    uint8_t *data = vg_ram(&t->g, VG_DATA + 0x10000);
    uint32_t sent = 0, got = 0;
    uint8_t buffer[1000];
    ssize_t n;

    for (; !take(t) || t->got.op == CREDIT_UPDATE; sent += 1000) {
        if (sent - t->got.fwd_cnt > WINDOW - 1000)
            break;
        for (unsigned i = 0; i < 1000; i++)
            data[i] = (uint8_t)((sent + i) * 7 >> 3);
        guest_sends(t, 1000, 80, RW, 0, 1000);
    }
    assert_true(sent > WINDOW);
    guest_sends(t, 1000, 80, SHUTDOWN, 3, 0); /* what is under way still arrives */
    guest_gets(t, 1000, RST, 0, 0);
    while ((n = read(fd, buffer, sizeof(buffer))) > 0) {
        for (ssize_t i = 0; i < n; i++)
            assert_int_equal(buffer[i], (uint8_t)((got + i) * 7 >> 3));
        got += (uint32_t)n;
        loop_poll(t->g.f.loop);
    }
    assert_int_equal(n, 0);
    assert_int_equal(got, sent);
    close(fd);
}

static void test_too_much(void **state)
{
    struct vsock_test *t = *state;
    int fd = open_from_guest(t, 1000);

    for (unsigned i = 0; i < 10; i++) { /* 64 KiB each, whatever is granted */
        struct header header = {CID, 2, 1000, 80, 65536, 1, RW, 0, WINDOW, 0};

        send_raw(t, &header, 65536);
        assert_int_equal(vg_used(&t->g, TX, 2), 0);
    }
    guest_gets(t, 1000, RST, 0, 0);
    assert_int_equal(vg_status(&t->g), 0xf);
    close(fd);
}

/* The guest's program does not read: not a byte more than its window. */
static void test_guest_window(void **state)
{
    struct vsock_test *t = *state;
    int fd;

    t->buf_alloc = 10;
    fd = open_from_guest(t, 1000);
    host_writes(t, fd, "0123456789abcdef");
    guest_gets(t, 1000, RW, 0, 10);
    guest_gets(t, 1000, CREDIT_REQUEST, 0, 0);
    assert_false(take(t));
    t->fwd_cnt = 3;
    guest_sends(t, 1000, 80, CREDIT_UPDATE, 0, 0);
    guest_gets(t, 1000, RW, 0, 3);
    assert_memory_equal(guest_data(t), "abc", 3);
    guest_gets(t, 1000, CREDIT_REQUEST, 0, 0);
    close(fd); /* the rest is still delivered, and then the end */
    loop_poll(t->g.f.loop);
    assert_false(take(t));
    t->fwd_cnt = 13;
    guest_sends(t, 1000, 80, CREDIT_UPDATE, 0, 0);
    guest_gets(t, 1000, RW, 0, 3);
    guest_gets(t, 1000, SHUTDOWN, 3, 0);
    guest_sends(t, 1000, 80, CREDIT_REQUEST, 0, 0);
    guest_gets(t, 1000, CREDIT_UPDATE, 0, 0);
}

static void test_many(void **state)
{
    struct vsock_test *t = *state;
    static int fd[200];

    for (uint32_t i = 0; i < 200; i++)
        fd[i] = open_from_guest(t, 1000 + i);
    for (uint32_t i = 0; i < 200; i++)
        guest_writes(t, 1000 + i, 80, i % 2 ? "odd" : "even");
    for (uint32_t i = 0; i < 200; i++) {
        host_reads(fd[i], i % 2 ? "odd" : "even");
        host_writes(t, fd[i], "back");
    }
    for (uint32_t i = 0; i < 200; i++)
        guest_gets(t, 1000 + i, RW, 0, 4);
    vg_put(&t->g, 0x14, 0, 1);
    loop_poll(t->g.f.loop);
    for (uint32_t i = 0; i < 200; i++) {
        host_ended(fd[i]);
        close(fd[i]);
    }
}

static void test_too_many(void **state)
{
    struct vsock_test *t = *state;
    int in[VIRTIO_VSOCK_STREAMS], fds = 0;
    unsigned refused = 0;

    for (uint32_t i = 0; i < VIRTIO_VSOCK_STREAMS + 100; i++) {
        guest_sends(t, 1000 + i, 80, REQUEST, 0, 0);
        assert_true(take(t));
        refused += t->got.op == RST;
        if (t->got.op == RST)
            continue;
        in[fds] = accept4(t->listener, NULL, NULL, SOCK_NONBLOCK);
        if (in[fds] < 0) { /* or out of descriptors */
            assert_int_equal(errno, EMFILE);
            guest_sends(t, 1000 + i, 80, RST, 0, 0);
            break;
        }
        fds++;
    }
    assert_true(refused || fds > 100);
    while (fds)
        close(in[--fds]);
}

static void test_hostile(void **state)
{
    struct vsock_test *t = *state;
    struct header header = {CID, 2, 1000, 80, 0, 1, REQUEST, 0, WINDOW, 0};
    int fd = open_from_guest(t, 1000);

    header.src_cid = 8; /* somebody else */
    send_raw(t, &header, 0);
    assert_int_equal(vg_used(&t->g, TX, 1), 0);
    header.src_cid = CID;
    header.dst_cid = 1;
    send_raw(t, &header, 0);
    assert_int_equal(vg_used(&t->g, TX, 1), 0);
    assert_false(take(t));
    guest_sends(t, 1000, 80, REQUEST, 0, 0); /* twice the same: it is at an end */
    guest_gets(t, 1000, RST, 0, 0);
    host_ended(fd);
    close(fd);
    guest_sends(t, 1000, 80, RST, 0, 0); /* unknown: no answer to an answer */
    assert_false(take(t));
    header = (struct header){CID, 2, 5, 80, 0, 2, REQUEST, 0, WINDOW, 0}; /* a kind that is not offered */
    send_raw(t, &header, 0);
    assert_int_equal(vg_used(&t->g, TX, 1), 0);
    guest_gets(t, 5, RST, 0, 0);
    assert_int_equal(t->got.type, 2);
    for (uint32_t i = 0; i < 64; i++) /* no room for answers: then nothing is taken */
        guest_sends(t, i, 9, RW, 0, 0);
    header = (struct header){CID, 2, 64, 9, 0, 1, RW, 0, WINDOW, 0};
    send_raw(t, &header, 0);
    assert_int_equal(vg_used(&t->g, TX, 1), -1);
    assert_true(take(t));
    assert_int_equal(vg_used(&t->g, TX, 1), 0);
    for (uint32_t i = 0; i < 64; i++)
        assert_true(take(t));
    assert_false(take(t));
    header.len = 1;
    assert_int_equal(vg_status(&t->g), 0xf);
    send_raw(t, &header, 0);
    assert_int_equal(vg_status(&t->g), 0x4f);
}

/* A socket file that a killed process left behind is replaced, one that is in use is not. */
static void test_path(void **state)
{
    struct vsock_test *t = *state;
    struct vsock_host *host;
    struct error err;
    char path[64];

    snprintf(path, sizeof(path), "%s/stale", t->dir);
    close(listen_at(path));
    host = vsock_host_new(t->g.f.loop, path, &err);
    assert_non_null(host);
    assert_null(vsock_host_new(t->g.f.loop, path, &err));
    assert_non_null(strstr(err.message, path));
    vsock_host_free(host);
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, setup, teardown)
int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(test_from_guest),   TEST(test_from_host), TEST(test_refused),  TEST(test_window),  TEST(test_too_much),
        TEST(test_guest_window), TEST(test_many),      TEST(test_too_many), TEST(test_hostile), TEST(test_path),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
