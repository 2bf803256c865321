/* The job channel's monitor end, with a test as the guest: frames in both directions, credit, hostile frames. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <unistd.h>

#include "backend/char/job.h"
#include "backend/char/job_protocol.h"

#define READY "\x81\x08\x00trapeze1"

struct peer {
    struct vclock *clock;
    struct loop *loop;
    struct chardev *job;
    int in[2], out[2], err[2]; /* pipes: [0] read end */
    size_t room;               /* of the fake port */
    size_t len;                /* received by the guest */
    uint8_t data[400000];
};

static size_t can_receive(void *opaque)
{
    const struct peer *p = opaque;

    return MIN(p->room, sizeof(p->data) - p->len);
}

static void receive(void *opaque, const uint8_t *data, size_t len)
{
    struct peer *p = opaque;

    assert_true(len <= can_receive(p));
    memcpy(p->data + p->len, data, len);
    p->len += len;
}

static void open_peer(struct peer *p, const char *const *argv)
{
    const struct job_config defaults = {.argv = argv, .env = (const char *[]){"A=b", NULL}, .rows = 25, .cols = 300};
    struct job_config config = defaults;
    struct error err;

    memset(p, 0, sizeof(*p));
    p->room = 16;
    p->clock = vclock_new_manual(1000000000);
    p->loop = loop_new(p->clock);
    assert_int_equal(pipe2(p->in, O_NONBLOCK) | pipe2(p->out, O_NONBLOCK) | pipe2(p->err, O_NONBLOCK), 0);
    config.in = p->in[0];
    config.out = p->out[1];
    config.err = p->err[1];
    p->job = chardev_job_new(p->loop, &config, &err);
    assert_non_null(p->job);
    p->job->client = (struct chardev_client){.opaque = p, .can_receive = can_receive, .receive = receive};
    p->job->ops->accept_input(p->job);
    loop_poll(p->loop);
}

static void close_end(int *fd)
{
    if (*fd >= 0)
        close(*fd);
    *fd = -1;
}

static void close_peer(struct peer *p)
{
    p->job->ops->free(p->job);
    loop_free(p->loop);
    vclock_free(p->clock);
    for (int i = 0; i < 2; i++) {
        close_end(&p->in[i]);
        close_end(&p->out[i]);
        close_end(&p->err[i]);
    }
}

static void guest_sends(struct peer *p, const void *data, size_t len)
{
    for (size_t i = 0; i < len; i++) /* as a serial port does */
        p->job->ops->write(p->job, (const uint8_t *)data + i, 1);
    loop_poll(p->loop);
}

static void guest_frame(struct peer *p, uint8_t type, const void *data, size_t len)
{
    uint8_t header[] = {type, (uint8_t)len, (uint8_t)(len >> 8)};

    guest_sends(p, header, sizeof(header));
    guest_sends(p, data, len);
}

static void guest_u32(struct peer *p, uint8_t type, uint32_t value)
{
    guest_frame(p, type, &value, 4);
}

/* What the guest has got begins with these bytes; they are taken away. */
static void guest_expects(struct peer *p, const void *data, size_t len)
{
    assert_true(p->len >= len);
    assert_memory_equal(p->data, data, len);
    p->len -= len;
    memmove(p->data, p->data + len, p->len);
}

static void reads(int fd, const char *text)
{
    char buf[256];
    ssize_t n = read(fd, buf, sizeof(buf));

    assert_int_equal(n, strlen(text));
    assert_memory_equal(buf, text, strlen(text));
}

static void assert_quiet(struct peer *p)
{
    char c;

    assert_int_equal(p->len, 0);
    assert_int_equal(read(p->out[0], &c, 1), -1);
    assert_int_equal(errno, EAGAIN);
}

static const char *const echo[] = {"echo", "hi", NULL};

static void start(struct peer *p)
{
    open_peer(p, echo);
    assert_quiet(p);
    guest_sends(p, "noise \x81\x81\x08 trap" READY, 14 + sizeof(READY) - 1);
    guest_expects(p, "\x02\x04\0A=b\0", 7);
    guest_expects(p, "\x01\x08\0echo\0hi\0", 11);
    guest_expects(p, "\x03\x05\0\0\x19\0\x2c\x01", 8);
    guest_expects(p, "\x08\x04\0\0\0\x01\0", 7); /* 64 KiB of output */
    assert_quiet(p);
}

static void test_streams(void **state)
{
    struct peer p;
    int status = -1;

    start(&p);
    assert_int_equal(write(p.in[1], "input", 5), 5);
    loop_poll(p.loop);
    assert_quiet(&p); /* no credit yet */
    guest_u32(&p, JOB_IN_CREDIT, 3);
    guest_expects(&p, "\x04\x03\0inp", 6);
    guest_u32(&p, JOB_IN_CREDIT, 100);
    guest_expects(&p, "\x04\x02\0ut", 5);
    close_end(&p.in[1]);
    loop_poll(p.loop);
    guest_expects(&p, "\x05\0\0", 3);

    guest_frame(&p, JOB_STDOUT, "out\n", 4);
    guest_frame(&p, JOB_STDERR, "err", 3);
    guest_frame(&p, JOB_STDOUT, "", 0);
    reads(p.out[0], "out\n");
    reads(p.err[0], "err");
    assert_false(chardev_job_status(p.job, &status));
    guest_frame(&p, JOB_EXIT, "\x2a", 1);
    assert_true(chardev_job_status(p.job, &status));
    assert_int_equal(status, 42);
    guest_frame(&p, JOB_STDOUT, "late", 4);
    assert_quiet(&p);
    close_peer(&p);
}

/* The port has room for few bytes at a time, then for none. */
static void test_port_room(void **state)
{
    struct peer p;

    open_peer(&p, echo);
    p.room = 0;
    guest_sends(&p, READY, sizeof(READY) - 1);
    assert_int_equal(p.len, 0);
    p.room = 1;
    p.job->ops->accept_input(p.job);
    loop_poll(p.loop);
    assert_int_equal(p.len, 7 + 11 + 8 + 7);
    close_peer(&p);
}

/* A reader that stands still stops the job, not the monitor; what is granted again is what was read. */
static void test_slow_reader(void **state)
{
    static char block[JOB_PAYLOAD], sink[JOB_OUT_WINDOW * 2];
    size_t got = 0;
    struct peer p;
    ssize_t n;

    start(&p);
    assert_true(fcntl(p.out[1], F_SETPIPE_SZ, 4096) > 0);
    memset(block, 'x', sizeof(block));
    for (unsigned i = 0; i < JOB_OUT_WINDOW / JOB_PAYLOAD; i++)
        guest_frame(&p, JOB_STDOUT, block, sizeof(block));
    assert_int_equal(p.len, 0); /* a pipe's worth is not enough for a new grant */
    for (unsigned i = 0; i < 100; i++) {
        n = read(p.out[0], sink + got, sizeof(sink) - got);
        got += n > 0 ? (size_t)n : 0;
        loop_poll(p.loop);
    }
    assert_int_equal(got, JOB_OUT_WINDOW);
    n = 0;
    while (p.len > 0) {
        uint32_t grant;

        memcpy(&grant, p.data + 3, 4);
        n += grant;
        guest_expects(&p, (const uint8_t[]){8, 4, 0}, 3);
        guest_expects(&p, &grant, 4);
    }
    assert_int_equal(n, JOB_OUT_WINDOW);
    close_peer(&p);
}

static void test_closed_reader(void **state)
{
    struct peer p;

    start(&p);
    close_end(&p.out[0]);
    guest_frame(&p, JOB_STDOUT, "into the void", 13);
    guest_expects(&p, "\x09\x01\0\x01", 4);
    guest_frame(&p, JOB_STDOUT, "more", 4);
    assert_int_equal(p.len, 0);
    close_peer(&p);
}

/* What the guest sent before it ended is not lost when the loop has stopped. */
static void test_drain(void **state)
{
    const uint8_t frame[] = {JOB_STDOUT, 4, 0, 'l', 'a', 's', 't', JOB_EXIT, 1, 0, 7};
    struct peer p;
    int status;

    start(&p);
    p.job->ops->write(p.job, frame, sizeof(frame));
    chardev_job_drain(p.job);
    reads(p.out[0], "last");
    assert_true(chardev_job_status(p.job, &status));
    assert_int_equal(status, 7);
    close_peer(&p);
}

static void test_window_and_signal(void **state)
{
    struct peer p;

    start(&p);
    chardev_job_winsize(p.job, 50, 0x1234);
    chardev_job_signal(p.job, SIGTERM);
    chardev_job_signal(p.job, SIGINT);
    chardev_job_signal(p.job, 0);
    chardev_job_signal(p.job, 65);
    loop_poll(p.loop);
    guest_expects(&p, "\x06\x04\0\x32\0\x34\x12", 7);
    guest_expects(&p, "\x07\x01\0\x02", 4);
    guest_expects(&p, "\x07\x01\0\x0f", 4);
    assert_quiet(&p);
    close_peer(&p);
}

/* No job: only the console's window size. Input is left alone. */
static void test_no_job(void **state)
{
    struct peer p;

    open_peer(&p, NULL);
    assert_int_equal(write(p.in[1], "x", 1), 1);
    guest_sends(&p, READY, sizeof(READY) - 1);
    guest_expects(&p, "\x06\x04\0\x19\0\x2c\x01", 7);
    guest_u32(&p, JOB_IN_CREDIT, 10);
    assert_quiet(&p);
    reads(p.in[0], "x");
    close_peer(&p);
}

static void test_hostile(void **state)
{
    static const struct {
        uint8_t type;
        uint16_t len;
    } frames[] = {
        {0, 0},
        {JOB_STDIN, 4},
        {JOB_READY, 8},
        {JOB_STDOUT, JOB_PAYLOAD + 1},
        {JOB_STDERR, 0xffff},
        {JOB_IN_CREDIT, 3},
        {JOB_IN_CREDIT, 4}, /* of all ones: more than the window */
        {JOB_EXIT, 0},
        {JOB_EXIT, 2},
        {0xff, 10},
    };
    static uint8_t ones[JOB_PAYLOAD];
    int status;

    memset(ones, 0xff, sizeof(ones));
    for (unsigned i = 0; i < ARRAY_SIZE(frames); i++) {
        struct peer p;

        start(&p);
        guest_sends(&p, (const uint8_t[]){frames[i].type, (uint8_t)frames[i].len, (uint8_t)(frames[i].len >> 8)}, 3);
        guest_sends(&p, ones, MIN(frames[i].len, sizeof(ones)));
        guest_frame(&p, JOB_STDOUT, "no more", 7); /* closed for good */
        guest_frame(&p, JOB_EXIT, "\x01", 1);
        assert_quiet(&p);
        assert_false(chardev_job_status(p.job, &status));
        close_peer(&p);
    }
}

/* Output beyond the credit. */
static void test_overrun(void **state)
{
    static char block[JOB_PAYLOAD];
    struct peer p;
    int status;

    start(&p);
    assert_true(fcntl(p.out[1], F_SETPIPE_SZ, 4096) > 0);
    for (unsigned i = 0; i < JOB_OUT_WINDOW / JOB_PAYLOAD; i++)
        guest_frame(&p, JOB_STDOUT, block, sizeof(block));
    guest_frame(&p, JOB_STDERR, "x", 1);
    guest_frame(&p, JOB_EXIT, "\x01", 1);
    assert_false(chardev_job_status(p.job, &status));
    close_peer(&p);
}

static void test_arguments(void **state)
{
    static char big[JOB_ARGS_MAX];
    const char *const argv[] = {"a", big, NULL};
    struct job_config config = {.argv = argv, .in = -1, .out = -1, .err = -1};
    struct vclock *clock = vclock_new_manual(1000000000);
    struct loop *loop = loop_new(clock);
    static struct peer p;
    struct error err;
    size_t frames = 0;

    memset(big, 'b', sizeof(big) - 1);
    assert_null(chardev_job_new(loop, &config, &err)); /* two bytes too many */
    assert_non_null(strstr(err.message, "131074 bytes"));
    loop_free(loop);
    vclock_free(clock);

    big[sizeof(big) - 3] = 0;
    open_peer(&p, argv);
    p.room = 1000;
    guest_sends(&p, READY, sizeof(READY) - 1);
    guest_expects(&p, "\x02\x04\0A=b\0", 7);
    for (; p.data[0] == JOB_ARGV; frames++) {
        assert_int_equal(p.data[1] | p.data[2] << 8, JOB_PAYLOAD);
        p.len -= JOB_HEADER + JOB_PAYLOAD;
        memmove(p.data, p.data + JOB_HEADER + JOB_PAYLOAD, p.len);
    }
    assert_int_equal(frames, JOB_ARGS_MAX / JOB_PAYLOAD);
    assert_int_equal(p.data[0], JOB_START);
    close_peer(&p);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_streams),     cmocka_unit_test(test_port_room),
        cmocka_unit_test(test_slow_reader), cmocka_unit_test(test_closed_reader),
        cmocka_unit_test(test_drain),       cmocka_unit_test(test_window_and_signal),
        cmocka_unit_test(test_no_job),      cmocka_unit_test(test_hostile),
        cmocka_unit_test(test_overrun),     cmocka_unit_test(test_arguments),
    };

    signal(SIGPIPE, SIG_IGN);
    return cmocka_run_group_tests(tests, NULL, NULL);
}
