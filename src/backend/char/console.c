/*
 * backend/char/console.c: a filter between the terminal's descriptors
 * (backend/char/fd.c) and the device: keys on their way in are searched for the
 * escape. What has to be undone for the terminal is kept in one static struct,
 * since atexit and signal handlers have to find it.
 */
#include "backend/char/console.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/ioctl.h>
#include <termios.h>
#include <unistd.h>

#include "backend/char/backends.h"
#include "base/lock.h"

#define ESCAPE     0x01 /* Ctrl-A */
#define TYPE_AHEAD 4096u

struct console {
    struct chardev chardev; /* first; its client is the device */
    struct chardev *fd;     /* its client is the console */
    struct loop *loop;
    int in;
    struct console_events events;
    struct timer input_timer;
    _Atomic bool no_room; /* input waits for accept_input */

    /* The loop's thread's. */
    bool escape; /* Ctrl-A has been pressed */
    bool hung_up, told;
    uint32_t head, tail;
    uint8_t keys[TYPE_AHEAD];
};

static const char help[] = "\n"
                           "Ctrl-A X       quit\n"
                           "Ctrl-A H       this list\n"
                           "Ctrl-A Ctrl-A  send Ctrl-A to the guest\n";

/* --- the terminal ------------------------------------------------------------------------------- */

static struct {
    _Atomic bool raw;
    int in, out;
    int in_flags, out_flags; /* fcntl's */
    struct termios saved;
    int resize_event;
} terminal = {.resize_event = -1};

/* Those that end a process and can be caught. */
static const int deadly_signals[] = {SIGHUP, SIGINT, SIGQUIT, SIGILL,  SIGTRAP, SIGABRT,
                                     SIGBUS, SIGFPE, SIGSEGV, SIGPIPE, SIGTERM};

void console_restore_terminal(void)
{
    int saved_errno = errno;

    if (atomic_exchange(&terminal.raw, false)) {
        tcsetattr(terminal.in, TCSANOW, &terminal.saved);
        fcntl(terminal.out, F_SETFL, terminal.out_flags);
        fcntl(terminal.in, F_SETFL, terminal.in_flags);
    }
    errno = saved_errno;
}

/* SA_RESETHAND: what comes next is the signal's default. */
static void on_deadly_signal(int number)
{
    console_restore_terminal();
    raise(number);
}

static void on_resize_signal(int number)
{
    int saved_errno = errno;
    uint64_t one = 1;
    ssize_t n = write(terminal.resize_event, &one, sizeof(one));

    (void)n; /* it fails only when a wake-up is pending already */
    errno = saved_errno;
}

/* Leaves alone the signals for which the program has a handler of its own, or which it ignores. */
static void catch_deadly_signals(void)
{
    struct sigaction action = {.sa_handler = on_deadly_signal, .sa_flags = SA_RESETHAND | SA_NODEFER}, old;
    unsigned i;

    for (i = 0; i < ARRAY_SIZE(deadly_signals); i++)
        if (!sigaction(deadly_signals[i], NULL, &old) && old.sa_handler == SIG_DFL)
            sigaction(deadly_signals[i], &action, NULL);
}

static int make_raw(int in, int out)
{
    static bool registered;
    struct termios raw;

    if (atomic_load(&terminal.raw))
        return -EBUSY;
    if (tcgetattr(in, &terminal.saved) < 0)
        return -errno;
    terminal.in = in;
    terminal.out = out;
    terminal.in_flags = fcntl(in, F_GETFL);
    terminal.out_flags = fcntl(out, F_GETFL);
    if (terminal.in_flags < 0 || terminal.out_flags < 0)
        return -errno;
    if (!registered && atexit(console_restore_terminal) != 0)
        return -ENOMEM;
    registered = true;
    raw = terminal.saved;
    cfmakeraw(&raw);
    raw.c_oflag |= OPOST | ONLCR; /* the monitor's own messages end in a bare newline */
    if (tcsetattr(in, TCSANOW, &raw) < 0)
        return -errno;
    atomic_store(&terminal.raw, true);
    catch_deadly_signals();
    return 0;
}

bool console_size(int fd, unsigned *rows, unsigned *columns)
{
    struct winsize size;

    if (ioctl(fd, TIOCGWINSZ, &size) < 0 || !size.ws_row || !size.ws_col)
        return false;
    *rows = size.ws_row;
    *columns = size.ws_col;
    return true;
}

/* --- keys ------------------------------------------------------------------------------------------ */

static void deliver(struct console *console)
{
    const struct chardev_client *client = &console->chardev.client;

    while (console->head != console->tail && client->receive) {
        uint32_t at = console->head % TYPE_AHEAD, len;
        size_t room;

        atomic_store(&console->no_room, true);      /* before looking: accept_input may come in between */
        room = client->can_receive(client->opaque); /* once: it may be another the next time */
        len = (uint32_t)MIN(room, MIN(console->tail - console->head, TYPE_AHEAD - at));
        if (!len)
            return;
        client->receive(client->opaque, &console->keys[at], len);
        console->head += len;
    }
    if (console->hung_up && !console->told && client->hangup) {
        console->told = true;
        client->hangup(client->opaque);
    }
}

static void deliver_later(void *opaque)
{
    deliver(opaque);
}

static void type(struct console *console, uint8_t key)
{
    if (console->tail - console->head < TYPE_AHEAD)
        console->keys[console->tail++ % TYPE_AHEAD] = key;
}

static void escaped(struct console *console, uint8_t key)
{
    switch (key) {
    case 'x':
    case 'X':
        if (console->events.quit)
            console->events.quit(console->events.opaque);
        break;
    case 'h':
    case 'H':
    case '?':
        console->fd->ops->write(console->fd, (const uint8_t *)help, sizeof(help) - 1);
        break;
    case ESCAPE:
        type(console, ESCAPE);
        break;
    }
}

static size_t console_can_receive(void *opaque)
{
    return TYPE_AHEAD;
}

static void console_receive(void *opaque, const uint8_t *data, size_t len)
{
    struct console *console = opaque;
    size_t i;

    for (i = 0; i < len; i++) {
        if (console->escape) {
            console->escape = false;
            escaped(console, data[i]);
        } else if (data[i] == ESCAPE) {
            console->escape = true;
        } else {
            type(console, data[i]);
        }
    }
    deliver(console);
}

static void console_hangup(void *opaque)
{
    struct console *console = opaque;

    console->hung_up = true;
    deliver(console);
}

static bool take_size(struct console *console)
{
    unsigned rows, columns;

    if (!console_size(console->in, &rows, &columns))
        return false;
    console->chardev.rows = (uint16_t)rows;
    console->chardev.columns = (uint16_t)columns;
    return true;
}

static void resize_ready(void *opaque, short revents)
{
    struct console *console = opaque;
    struct chardev *chardev = &console->chardev;
    uint64_t count;

    if (read(terminal.resize_event, &count, sizeof(count)) < 0 || !take_size(console))
        return;
    if (console->events.resized)
        console->events.resized(console->events.opaque, chardev->rows, chardev->columns);
    if (chardev->client.resized)
        chardev->client.resized(chardev->client.opaque, chardev->rows, chardev->columns);
}

/* --- the device's side ----------------------------------------------------------------------------- */

static void console_write(struct chardev *chardev, const uint8_t *data, size_t len)
{
    struct console *console = container_of(chardev, struct console, chardev);

    console->fd->ops->write(console->fd, data, len);
}

static void console_accept_input(struct chardev *chardev)
{
    struct console *console = container_of(chardev, struct console, chardev);

    if (atomic_exchange(&console->no_room, false))
        timer_arm(&console->input_timer, 0);
}

static void console_free(struct chardev *chardev)
{
    struct console *console = container_of(chardev, struct console, chardev);

    signal(SIGWINCH, SIG_DFL);
    if (terminal.resize_event >= 0) {
        loop_watch_fd(console->loop, terminal.resize_event, 0, NULL, NULL);
        close(terminal.resize_event);
        terminal.resize_event = -1;
    }
    timer_cancel(&console->input_timer);
    chardev_free(console->fd); /* writes what is queued, still in raw mode */
    console_restore_terminal();
    free(console);
}

static const struct chardev_ops console_ops = {
    .write = console_write,
    .accept_input = console_accept_input,
    .free = console_free,
};

static int watch_size(struct console *console)
{
    const struct sigaction action = {.sa_handler = on_resize_signal, .sa_flags = SA_RESTART};
    int rc;

    terminal.resize_event = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    if (terminal.resize_event < 0)
        return -errno;
    rc = loop_watch_fd(console->loop, terminal.resize_event, POLLIN, resize_ready, console);
    if (rc == 0 && sigaction(SIGWINCH, &action, NULL) < 0)
        rc = -errno;
    return rc;
}

struct chardev *chardev_console_new(struct loop *loop, int in, int out, const struct console_events *events,
                                    struct error *err)
{
    struct console *console = calloc(1, sizeof(*console));
    int rc;

    if (!console) {
        error_set(err, -ENOMEM, "console: no memory");
        return NULL;
    }
    rc = make_raw(in, out);
    if (rc < 0) {
        error_set(err, rc, "console: cannot set the terminal to raw mode: %s", strerror(-rc));
        free(console);
        return NULL;
    }
    console->chardev.ops = &console_ops;
    console->loop = loop;
    console->in = in;
    console->events = *events;
    take_size(console);
    timer_init(&console->input_timer, loop, deliver_later, console);
    console->fd = chardev_fd_new(loop, in, out, err);
    if (!console->fd)
        goto fail;
    rc = watch_size(console);
    if (rc < 0) {
        error_set(err, rc, "console: cannot watch the terminal's size: %s", strerror(-rc));
        goto fail;
    }
    console->fd->client = (struct chardev_client){
        .opaque = console,
        .can_receive = console_can_receive,
        .receive = console_receive,
        .hangup = console_hangup,
    };
    console->fd->ops->accept_input(console->fd);
    return &console->chardev;
fail:
    console_free(&console->chardev);
    return NULL;
}
