/* tests/unit/test_chardev.c: the descriptor and console backends, over pipes and a pseudo-terminal. */
#include <fcntl.h>
#include <poll.h>
#include <pthread.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/wait.h>
#include <termios.h>
#include <unistd.h>

#include <cmocka.h>

#include "backend/char/backends.h"
#include "backend/char/buffer.h"
#include "backend/char/console.h"

#define MS 1000000ull

struct side {
    struct vclock *clock;
    struct loop *loop;
    struct chardev *chardev;
    int in[2], out[2];
    size_t room, len;
    unsigned hangups, quits, rows, columns;
    char got[8192];
};

static size_t can_receive(void *opaque)
{
    return ((struct side *)opaque)->room;
}

static void receive(void *opaque, const uint8_t *data, size_t len)
{
    struct side *side = opaque;

    assert_true(len <= side->room && side->len + len < sizeof(side->got));
    memcpy(side->got + side->len, data, len);
    side->len += len;
    side->got[side->len] = 0;
    side->room -= len;
}

static void hangup(void *opaque)
{
    ((struct side *)opaque)->hangups++;
}

static void connect_device(struct side *side)
{
    assert_non_null(side->chardev);
    side->chardev->client =
        (struct chardev_client){.opaque = side, .can_receive = can_receive, .receive = receive, .hangup = hangup};
    side->chardev->ops->accept_input(side->chardev);
    loop_poll(side->loop);
}

static void open_loop(struct side *side)
{
    *side = (struct side){.clock = vclock_new_manual(1000000000)};
    side->loop = loop_new(side->clock);
}

static void open_pipes(struct side *side)
{
    open_loop(side);
    assert_int_equal(pipe(side->in), 0);
    assert_int_equal(pipe(side->out), 0);
    side->chardev = chardev_fd_new(side->loop, side->in[0], side->out[1], NULL);
    connect_device(side);
}

static void close_all(struct side *side)
{
    loop_free(side->loop);
    vclock_free(side->clock);
    for (int i = 0; i < 2; i++) {
        close(side->in[i]);
        close(side->out[i]);
    }
}

static void send(struct side *side, const char *text)
{
    side->chardev->ops->write(side->chardev, (const uint8_t *)text, strlen(text));
}

/* What goes through a pseudo-terminal takes its time. */
static void wait_readable(int fd)
{
    struct pollfd poll_fd = {.fd = fd, .events = POLLIN};

    poll(&poll_fd, 1, isatty(fd) ? 1000 : 0);
}

static void expect(int fd, const char *text)
{
    char got[512] = "";
    int flags = fcntl(fd, F_GETFL);
    size_t len = 0;
    ssize_t n;

    fcntl(fd, F_SETFL, flags | O_NONBLOCK);
    do { /* a pseudo-terminal may hand it over in parts */
        wait_readable(fd);
        n = read(fd, got + len, sizeof(got) - 1 - len);
        len += n > 0 ? (size_t)n : 0;
    } while (n > 0 && len < strlen(text));
    fcntl(fd, F_SETFL, flags);
    assert_string_equal(got, text);
}

static void type(struct side *side, int fd, const char *text)
{
    assert_int_equal(write(fd, text, strlen(text)), strlen(text));
    wait_readable(side->in[0]);
    loop_poll(side->loop);
}

static void test_output(void **state)
{
    struct side side;

    open_pipes(&side);
    assert_true(fcntl(side.out[1], F_GETFL) & O_NONBLOCK);
    send(&side, "lo");
    send(&side, "gin: ");
    expect(side.out[0], ""); /* gathered */
    vclock_advance_ns(side.clock, 3 * MS);
    loop_poll(side.loop);
    expect(side.out[0], "login: ");
    send(&side, "a line\n");
    expect(side.out[0], "a line\n"); /* at once */
    send(&side, "the end");
    chardev_free(side.chardev);
    expect(side.out[0], "the end");
    assert_false(fcntl(side.out[1], F_GETFL) & O_NONBLOCK);
    assert_false(fcntl(side.in[0], F_GETFL) & O_NONBLOCK);
    close_all(&side);
}

static void test_input(void **state)
{
    struct side side;

    open_pipes(&side);
    type(&side, side.in[1], "abc"); /* no room yet */
    assert_int_equal(side.len, 0);
    side.room = 2;
    side.chardev->ops->accept_input(side.chardev);
    loop_poll(side.loop);
    assert_string_equal(side.got, "ab");
    side.room = 10;
    side.chardev->ops->accept_input(side.chardev);
    loop_poll(side.loop);
    assert_string_equal(side.got, "abc");
    type(&side, side.in[1], "de");
    assert_string_equal(side.got, "abcde");
    close(side.in[1]);
    side.in[1] = -1;
    loop_poll(side.loop);
    assert_int_equal(side.hangups, 1);
    loop_poll(side.loop);
    assert_int_equal(side.hangups, 1);
    chardev_free(side.chardev);
    close_all(&side);
}

struct drain {
    int fd;
    size_t total;
    unsigned seed;
    bool wrong;
};

static void *drain(void *opaque)
{
    struct drain *drain = opaque;
    uint8_t data[4096];
    ssize_t n;

    while ((n = read(drain->fd, data, sizeof(data))) > 0) {
        for (ssize_t i = 0; i < n; i++)
            drain->wrong |= data[i] != (uint8_t)((drain->total + (size_t)i) * 7 >> 3);
        drain->total += (size_t)n;
        usleep(200);
    }
    return NULL;
}

/* A slow reader loses nothing: a writer waits for it. */
static void test_back_pressure(void **state)
{
    struct side side;
    struct drain drained;
    pthread_t thread;
    size_t i, total = 600000;

    open_pipes(&side);
    drained = (struct drain){.fd = side.out[0]};
    pthread_create(&thread, NULL, drain, &drained);
    for (i = 0; i < total; i++) {
        uint8_t byte = (uint8_t)(i * 7 >> 3);

        side.chardev->ops->write(side.chardev, &byte, 1);
    }
    chardev_free(side.chardev);
    close(side.out[1]);
    side.out[1] = -1;
    pthread_join(thread, NULL);
    assert_int_equal(drained.total, total);
    assert_false(drained.wrong);
    close_all(&side);
}

static void test_reader_gone(void **state)
{
    struct side side;

    signal(SIGPIPE, SIG_IGN);
    open_pipes(&side);
    close(side.out[0]);
    side.out[0] = -1;
    send(&side, "x\n");
    send(&side, "y\n");
    chardev_free(side.chardev);
    close_all(&side);
    signal(SIGPIPE, SIG_DFL);
}

/* --- console ------------------------------------------------------------------------------ */

static void quit(void *opaque)
{
    ((struct side *)opaque)->quits++;
}

static void resized(void *opaque, unsigned rows, unsigned columns)
{
    ((struct side *)opaque)->rows = rows;
    ((struct side *)opaque)->columns = columns;
}

/* in[1] is the user's end of a pseudo-terminal, in[0] the program's. */
static void open_terminal(struct side *side)
{
    open_loop(side);
    side->in[1] = posix_openpt(O_RDWR | O_NOCTTY);
    assert_true(side->in[1] >= 0 && grantpt(side->in[1]) == 0 && unlockpt(side->in[1]) == 0);
    side->in[0] = open(ptsname(side->in[1]), O_RDWR | O_NOCTTY);
    assert_true(side->in[0] >= 0);
    side->out[0] = side->out[1] = -1;
}

static void assert_same_terminal(const struct termios *a, const struct termios *b)
{
    assert_true(a->c_iflag == b->c_iflag && a->c_oflag == b->c_oflag);
    assert_true(a->c_cflag == b->c_cflag && a->c_lflag == b->c_lflag);
    assert_memory_equal(a->c_cc, b->c_cc, sizeof(a->c_cc));
}

static void test_console(void **state)
{
    struct side side;
    struct console_events events = {.opaque = &side, .quit = quit, .resized = resized};
    struct winsize size = {.ws_row = 50, .ws_col = 132};
    struct termios before, during, after;
    unsigned rows, columns;

    open_terminal(&side);
    tcgetattr(side.in[0], &before);
    side.chardev = chardev_console_new(side.loop, side.in[0], side.in[0], &events, NULL);
    assert_null(chardev_console_new(side.loop, side.in[0], side.in[0], &events, NULL)); /* one a process */
    connect_device(&side);
    tcgetattr(side.in[0], &during);
    assert_false(during.c_lflag & (ICANON | ECHO | ISIG));

    side.room = 100;
    type(&side, side.in[1], "a\003\001\001b\001?");
    assert_string_equal(side.got, "a\003\001b");
    vclock_advance_ns(side.clock, 3 * MS);
    loop_poll(side.loop);
    expect(side.in[1], "\r\nCtrl-A X       quit\r\nCtrl-A H       this list\r\n"
                       "Ctrl-A Ctrl-A  send Ctrl-A to the guest\r\n");
    side.room = 0; /* a guest that does not read cannot keep the user from leaving */
    type(&side, side.in[1], "xyz\001x");
    assert_int_equal(side.quits, 1);
    assert_string_equal(side.got, "a\003\001b");
    side.room = 100;
    side.chardev->ops->accept_input(side.chardev);
    loop_poll(side.loop);
    assert_string_equal(side.got, "a\003\001bxyz");

    ioctl(side.in[1], TIOCSWINSZ, &size);
    raise(SIGWINCH);
    loop_poll(side.loop);
    assert_int_equal(side.rows, 50);
    assert_int_equal(side.columns, 132);
    assert_true(console_size(side.in[0], &rows, &columns) && rows == 50 && columns == 132);
    assert_false(console_size(-1, &rows, &columns));

    send(&side, "bye");
    chardev_free(side.chardev);
    expect(side.in[1], "bye");
    tcgetattr(side.in[0], &after);
    assert_same_terminal(&before, &after);
    assert_false(fcntl(side.in[0], F_GETFL) & O_NONBLOCK);
    close_all(&side);
}

static void test_console_not_a_terminal(void **state)
{
    struct console_events events = {.opaque = NULL};
    struct side side;
    struct error err;

    open_loop(&side);
    assert_int_equal(pipe(side.in), 0);
    assert_int_equal(pipe(side.out), 0);
    assert_null(chardev_console_new(side.loop, side.in[0], side.out[1], &events, &err));
    assert_non_null(strstr(err.message, "raw mode"));
    close_all(&side);
}

/* A process that dies leaves the terminal as it was. */
static void test_console_death(void **state)
{
    static const int ends[] = {0, SIGTERM, SIGSEGV, SIGABRT};
    struct console_events events = {.opaque = NULL};
    struct termios before, after;
    struct side side;

    for (unsigned i = 0; i < ARRAY_SIZE(ends); i++) {
        pid_t child;
        int status;

        open_terminal(&side);
        tcgetattr(side.in[0], &before);
        child = fork();
        if (!child) {
            for (unsigned j = 1; j < ARRAY_SIZE(ends); j++)
                signal(ends[j], SIG_DFL); /* the test's own */
            chardev_console_new(side.loop, side.in[0], side.in[0], &events, NULL);
            if (ends[i])
                kill(getpid(), ends[i]);
            exit(0);
        }
        assert_int_equal(waitpid(child, &status, 0), child);
        assert_int_equal(WIFSIGNALED(status) ? WTERMSIG(status) : 0, ends[i]);
        tcgetattr(side.in[0], &after);
        assert_same_terminal(&before, &after);
        assert_false(fcntl(side.in[0], F_GETFL) & O_NONBLOCK);
        close_all(&side);
    }
}

/* --- two devices before one backend ------------------------------------------------------------- */

struct taker {
    size_t room, len;
    unsigned hangups, rows;
    char got[16];
};

static size_t taker_can_receive(void *opaque)
{
    return ((struct taker *)opaque)->room;
}

static void taker_receive(void *opaque, const uint8_t *data, size_t len)
{
    struct taker *taker = opaque;

    assert_true(len <= taker->room);
    memcpy(taker->got + taker->len, data, len);
    taker->len += len;
    taker->room -= len;
}

static void taker_hangup(void *opaque)
{
    ((struct taker *)opaque)->hangups++;
}

static void taker_resized(void *opaque, uint16_t rows, uint16_t columns)
{
    ((struct taker *)opaque)->rows = rows;
}

static void test_switch(void **state)
{
    for (unsigned mix = 0; mix < 2; mix++) {
        struct chardev *back = chardev_buffer_new(NULL), *front[2];
        struct chardev_switch *sw = chardev_switch_new(back, mix, NULL);
        struct taker taker[2] = {{.room = 3}, {.room = 10}};

        for (unsigned i = 0; i < 2; i++) {
            front[i] = chardev_switch_front(sw, i);
            front[i]->client = (struct chardev_client){.opaque = &taker[i],
                                                       .can_receive = taker_can_receive,
                                                       .receive = taker_receive,
                                                       .hangup = taker_hangup,
                                                       .resized = taker_resized};
            front[i]->ops->accept_input(front[i]);
        }
        assert_int_equal(chardev_buffer_accepts(back), 1); /* the second's room is of no interest */
        front[0]->ops->write(front[0], (const uint8_t *)"boot ", 5);
        assert_int_equal(chardev_buffer_feed(back, "early", 5), 3);
        assert_int_equal(back->client.can_receive(back->client.opaque), 0);
        front[1]->ops->write(front[1], (const uint8_t *)"login ", 6);
        assert_int_equal(chardev_buffer_accepts(back), 2);
        assert_int_equal(chardev_buffer_feed(back, "ly", 2), 2);
        front[0]->ops->write(front[0], (const uint8_t *)"oops", 4);
        assert_string_equal(chardev_buffer_output(back, NULL), mix ? "boot login oops" : "boot login ");
        assert_memory_equal(taker[0].got, "ear", 4);
        assert_memory_equal(taker[1].got, "ly", 3);
        back->client.resized(back->client.opaque, 40, 100);
        assert_int_equal(front[1]->columns, 100);
        chardev_buffer_hangup(back);
        for (unsigned i = 0; i < 2; i++) {
            assert_int_equal(taker[i].hangups, 1);
            assert_int_equal(taker[i].rows, 40);
        }
        chardev_switch_free(sw);
        chardev_free(back);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_output),        cmocka_unit_test(test_input),
        cmocka_unit_test(test_back_pressure), cmocka_unit_test(test_reader_gone),
        cmocka_unit_test(test_console),       cmocka_unit_test(test_console_not_a_terminal),
        cmocka_unit_test(test_console_death), cmocka_unit_test(test_switch),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
