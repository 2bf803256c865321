/* control/streams.c: see streams.h. Three ways to run: a job, a demonstration, a console. */
#include "control/streams.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "backend/char/backends.h"
#include "backend/char/console.h"
#include "backend/char/job.h"

#define CTRL_D    0x04
#define KEYS_ROOM 1024 /* what the pipe to a job takes at once, if it takes anything */

static void on_quit(void *opaque)
{
    struct streams *streams = opaque;

    streams->end(streams->opaque, 0);
}

static void on_resized(void *opaque, unsigned rows, unsigned columns)
{
    struct streams *streams = opaque;

    if (streams->job)
        chardev_job_winsize(streams->job, (uint16_t)rows, (uint16_t)columns);
}

static const char *terminal_type(void)
{
    const char *term = getenv("TERM");

    return term && *term && !strpbrk(term, " \"\t\n") ? term : "vt100";
}

static struct chardev *open_terminal(struct streams *streams, struct loop *loop, struct error *err)
{
    const struct console_events events = {.opaque = streams, .quit = on_quit, .resized = on_resized};

    streams->terminal = true;
    return chardev_console_new(loop, STDIN_FILENO, STDOUT_FILENO, &events, err);
}

/* --- a job's keyboard: the terminal's bytes, less Ctrl-A's, go down a pipe -------------------- */

static size_t keys_room(void *opaque)
{
    struct streams *streams = opaque;
    struct pollfd writable = {.fd = streams->keys[1], .events = POLLOUT};

    return poll(&writable, 1, 0) == 1 && (writable.revents & POLLOUT) ? KEYS_ROOM : 0;
}

static void keys_pressed(void *opaque, const uint8_t *data, size_t len)
{
    struct streams *streams = opaque;

    while (len) {
        ssize_t n = write(streams->keys[1], data, len);

        if (n < 0)
            return; /* full in spite of keys_room(), or closed: a key is lost, as on any line */
        data += n;
        len -= (size_t)n;
    }
}

static void keys_ended(void *opaque)
{
    struct streams *streams = opaque;

    close(streams->keys[1]);
    streams->keys[1] = -1;
}

static int open_keyboard(struct streams *streams, struct loop *loop, struct error *err)
{
    if (pipe2(streams->keys, O_NONBLOCK | O_CLOEXEC) < 0)
        return error_set(err, -errno, "a pipe for the keyboard: %s", strerror(errno));
    streams->keyboard = open_terminal(streams, loop, err);
    if (!streams->keyboard)
        return -EIO;
    streams->keyboard->client = (struct chardev_client){
        .opaque = streams, .can_receive = keys_room, .receive = keys_pressed, .hangup = keys_ended};
    streams->keyboard->ops->accept_input(streams->keyboard);
    return 0;
}

/* COM port `which` and a virtio port before one backend. */
static int add_port(struct streams *streams, unsigned which, struct chardev *back, bool mix, struct chardev **port,
                    struct error *err)
{
    streams->sw[which] = chardev_switch_new(back, mix, err);
    if (!streams->sw[which])
        return -ENOMEM;
    streams->serial[which] = chardev_switch_front(streams->sw[which], 0);
    *port = chardev_switch_front(streams->sw[which], 1);
    return 0;
}

/* --- the three ways -------------------------------------------------------------------------------- */

static const char *own_shell(void)
{
    const char *shell = getenv("SHELL");

    return shell && *shell ? shell : "/bin/sh";
}

/* User, group, further groups; no more of these than there is room for. */
static unsigned own_ids(uint32_t ids[JOB_IDS_MAX])
{
    int n = getgroups(JOB_IDS_MAX - 2, ids + 2);

    ids[0] = geteuid();
    ids[1] = getegid();
    return 2 + (unsigned)MAX(n, 0);
}

/* The job's streams are ours; what the kernel says (a panic) goes to standard error. */
static int open_job(struct streams *streams, const struct config *config, struct loop *loop, struct error *err)
{
    char term[128], dir[PATH_MAX];
    const char *const env[] = {term, NULL}, *const shell[] = {"sh", NULL}, *const own[] = {own_shell(), NULL};
    uint32_t ids[JOB_IDS_MAX];
    struct job_config job = {
        .argv = config->command     ? (const char *const *)config->command
                : config->host_root ? own
                                    : shell,
        .env = env,
        .in = STDIN_FILENO,
        .out = STDOUT_FILENO,
        .err = STDERR_FILENO,
        .terminal = isatty(STDIN_FILENO) && isatty(STDOUT_FILENO),
    };
    unsigned rows = 0, columns = 0;
    int rc;

    snprintf(streams->words, sizeof(streams->words), " quiet loglevel=3 trapeze.mode=job");
    snprintf(term, sizeof(term), "TERM=%.100s", terminal_type());
    if (config->host_root) { /* as if it were run here */
        job.env = (const char *const *)environ;
        job.dir = getcwd(dir, sizeof(dir));
        job.ids = ids;
        job.id_count = own_ids(ids);
    }
    if (job.terminal) {
        rc = open_keyboard(streams, loop, err);
        if (rc)
            return rc;
        job.in = streams->keys[0];
        console_size(STDOUT_FILENO, &rows, &columns);
        job.rows = (uint16_t)rows;
        job.cols = (uint16_t)columns;
    } else if (fcntl(STDIN_FILENO, F_GETFD) < 0) {
        job.in = -1;
    }
    streams->console = streams->serial[0] = chardev_fd_new(loop, -1, STDERR_FILENO, err);
    if (!streams->console)
        return -EIO;
    streams->job = chardev_job_new(loop, &job, err);
    return streams->job ? add_port(streams, 1, streams->job, false, &streams->job_port, err) : -EIO;
}

static int open_demo(struct streams *streams, struct loop *loop, struct error *err)
{
    snprintf(streams->words, sizeof(streams->words), " quiet loglevel=3 trapeze.mode=demo");
    streams->console = streams->serial[0] = chardev_fd_new(loop, -1, STDOUT_FILENO, err);
    return streams->console ? 0 : -EIO;
}

static int open_console(struct streams *streams, const struct config *config, struct loop *loop, struct error *err)
{
    if (!isatty(STDIN_FILENO) || !isatty(STDOUT_FILENO)) {
        streams->console = streams->serial[0] =
            chardev_fd_new(loop, fcntl(STDIN_FILENO, F_GETFD) < 0 ? -1 : STDIN_FILENO, STDOUT_FILENO, err);
        if (!streams->console)
            return -EIO;
        chardev_fd_set_end_byte(streams->console, CTRL_D);
        return 0;
    }
    snprintf(streams->words, sizeof(streams->words), " TERM=%.100s", terminal_type());
    streams->console = open_terminal(streams, loop, err);
    if (!streams->console || add_port(streams, 0, streams->console, true, &streams->terminal_port, err))
        return -EIO;
    if (!config->kernel) { /* without virtio the default guest's init is told the window's size */
        struct job_config none = {.in = -1, .out = -1, .err = -1};
        unsigned rows = 0, columns = 0;

        console_size(STDOUT_FILENO, &rows, &columns);
        none.rows = (uint16_t)rows;
        none.cols = (uint16_t)columns;
        streams->job = streams->serial[1] = chardev_job_new(loop, &none, err);
        return streams->job ? 0 : -EIO;
    }
    return 0;
}

/* --- standard output's reader --------------------------------------------------------------------------- */

static void on_output_event(void *opaque, short revents)
{
    struct streams *streams = opaque;

    if (revents & (POLLERR | POLLHUP))
        streams->end(streams->opaque, SIGPIPE);
}

/* Nobody reads what the guest writes any more (`trapeze run | head`): the run is over. A job is told by its own
 * channel. */
static void watch_output(struct streams *streams, struct loop *loop)
{
    streams->watched = fcntl(STDOUT_FILENO, F_DUPFD_CLOEXEC, 3);
    if (streams->watched >= 0 && loop_watch_fd(loop, streams->watched, POLLERR, on_output_event, streams)) {
        close(streams->watched); /* a file: always has room */
        streams->watched = -1;
    }
}

int streams_open(struct streams *streams, const struct config *config, struct loop *loop,
                 void (*end)(void *opaque, int signal), void *opaque, struct error *err)
{
    const bool terminal = isatty(STDIN_FILENO) && isatty(STDOUT_FILENO);

    *streams = (struct streams){.keys = {-1, -1}, .watched = -1, .end = end, .opaque = opaque};
    /* Without a terminal the default guest's shell is a job too: it reads a script. */
    if (config->command || config->host_root || (!config->kernel && !config->demo && !terminal))
        return open_job(streams, config, loop, err);
    watch_output(streams, loop);
    if (config->demo)
        return open_demo(streams, loop, err);
    return open_console(streams, config, loop, err);
}

void streams_close(struct streams *streams)
{
    if (streams->job)
        chardev_job_drain(streams->job);
    for (unsigned i = 0; i < ARRAY_SIZE(streams->sw); i++)
        chardev_switch_free(streams->sw[i]);
    chardev_free(streams->console);
    chardev_free(streams->job);
    chardev_free(streams->keyboard);
    if (streams->terminal)
        console_restore_terminal();
    for (unsigned i = 0; i < ARRAY_SIZE(streams->keys); i++)
        if (streams->keys[i] >= 0)
            close(streams->keys[i]);
    if (streams->watched >= 0)
        close(streams->watched);
}
