/*
 * guest/job.c: runs one command for the monitor, on pipes or on a terminal of
 * its own, relays its streams within the credit, reports its status.
 */
#include <errno.h>
#include <fcntl.h>
#include <grp.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <termios.h>
#include <unistd.h>

#include "guest.h"

#define GRANT_UNIT     (JOB_IN_WINDOW / 4)
#define TERMINAL_QUIET 100   /* ms without output after the job's end: the terminal is empty */
#define BACKGROUND_MAX 65536 /* output after the job's end, from what it left in the background */

struct strings {
    size_t len;
    char data[JOB_ARGS_MAX];
};

struct output {
    int fd; /* -1: at its end, or nobody reads it */
    uint8_t frame;
    long left; /* once the job has ended: bytes still to be taken; -1 before */
};

struct job {
    struct channel channel;
    struct strings argv, env;
    char dir[JOB_PAYLOAD + 1]; /* "": stays here */
    size_t id_count;           /* 0: root */
    uint32_t ids[JOB_IDS_MAX]; /* user, group, further groups */
    bool started, terminal, trouble;
    pid_t pid;
    bool ended;
    int status;

    int in;      /* the job's standard input; -1: closed */
    bool in_eof; /* close it when the queue is empty */
    size_t in_pos, in_len, in_ungranted;
    uint8_t in_queue[JOB_IN_WINDOW];

    uint64_t credit; /* bytes of output the monitor takes */
    struct output out[2];
};

/* --- starting it ----------------------------------------------------------------------------------- */

static void append(struct job *job, struct strings *s, const uint8_t *data, size_t len)
{
    if (len > sizeof(s->data) - s->len) {
        job->trouble = true;
        return;
    }
    memcpy(s->data + s->len, data, len);
    s->len += len;
}

/* Vector of the strings; the last one ends in NUL even if the monitor left that out. */
static char **split(struct strings *s)
{
    size_t count = 1, n = 0;
    char **vector;

    if (s->len > 0)
        s->data[s->len - 1] = 0;
    for (size_t i = 0; i < s->len; i++)
        count += !s->data[i];
    vector = calloc(count, sizeof(*vector));
    for (size_t i = 0; vector && i < s->len; i += strlen(s->data + i) + 1)
        vector[n++] = s->data + i;
    return vector;
}

/* Its own streams are its own: it may open them again by name. */
static bool take_identity(const struct job *job)
{
    for (int fd = 0; fd < 3; fd++)
        if (fchown(fd, job->ids[0], (gid_t)-1) < 0)
            return false;
    return setgroups(job->id_count - 2, job->ids + 2) == 0 && setgid(job->ids[1]) == 0 && setuid(job->ids[0]) == 0;
}

static _Noreturn void run_command(struct job *job)
{
    char **argv = split(&job->argv), **env = split(&job->env);
    int code;

    for (; env && *env; env++)
        if (strchr(*env, '='))
            putenv(*env);
    if (!argv || !argv[0]) {
        dprintf(STDERR_FILENO, "trapeze: no command\n");
        _exit(STATUS_TROUBLE);
    }
    guest_unblock_signals();
    if (*job->dir && chdir(job->dir) < 0) {
        dprintf(STDERR_FILENO, "trapeze: %s: %s\n", job->dir, strerror(errno));
        _exit(STATUS_TROUBLE);
    }
    if (job->id_count && !take_identity(job)) {
        dprintf(STDERR_FILENO, "trapeze: user %u: %s\n", job->ids[0], strerror(errno));
        _exit(STATUS_TROUBLE);
    }
    execvp(argv[0], argv);
    code = errno;
    dprintf(STDERR_FILENO, "trapeze: %s: %s\n", argv[0],
            code == ENOENT ? "there is no such command in the guest" : strerror(code));
    _exit(code == ENOENT ? STATUS_NOT_FOUND : STATUS_NOT_EXECUTABLE);
}

static void set_window(int fd, const uint8_t *rows_cols)
{
    struct winsize size = {.ws_row = (unsigned short)(rows_cols[0] | rows_cols[1] << 8),
                           .ws_col = (unsigned short)(rows_cols[2] | rows_cols[3] << 8)};

    ioctl(fd, TIOCSWINSZ, &size);
}

static bool start_on_terminal(struct job *job, const uint8_t *rows_cols)
{
    int master = open("/dev/ptmx", O_RDWR | O_NOCTTY | O_CLOEXEC | O_NONBLOCK), unlock = 0, slave;

    if (master < 0 || ioctl(master, TIOCSPTLCK, &unlock) < 0)
        return false;
    slave = ioctl(master, TIOCGPTPEER, O_RDWR | O_NOCTTY | O_CLOEXEC);
    if (slave < 0)
        return false;
    set_window(master, rows_cols);
    job->pid = fork();
    if (job->pid == 0) {
        setsid();
        ioctl(slave, TIOCSCTTY, 0);
        for (int i = 0; i < 3; i++)
            dup2(slave, i);
        run_command(job);
    }
    close(slave);
    job->in = master;
    job->out[0].fd = master;
    return job->pid > 0;
}

static bool start_on_pipes(struct job *job)
{
    int in[2], out[2], err[2];

    if (pipe2(in, O_CLOEXEC) < 0 || pipe2(out, O_CLOEXEC) < 0 || pipe2(err, O_CLOEXEC) < 0)
        return false;
    job->pid = fork();
    if (job->pid == 0) {
        setsid();
        dup2(in[0], 0);
        dup2(out[1], 1);
        dup2(err[1], 2);
        run_command(job);
    }
    close(in[0]);
    close(out[1]);
    close(err[1]);
    fcntl(in[1], F_SETFL, O_NONBLOCK);
    fcntl(out[0], F_SETFL, O_NONBLOCK);
    fcntl(err[0], F_SETFL, O_NONBLOCK);
    job->in = in[1];
    job->out[0].fd = out[0];
    job->out[1].fd = err[0];
    return job->pid > 0;
}

static void start(struct job *job, const uint8_t *data)
{
    job->started = true;
    job->terminal = data[0] & JOB_TERMINAL;
    if (!(job->terminal ? start_on_terminal(job, data + 1) : start_on_pipes(job))) {
        guest_say("the job cannot be started: %s", strerror(errno));
        job->trouble = true;
        return;
    }
    channel_send_u32(&job->channel, JOB_IN_CREDIT, JOB_IN_WINDOW);
}

/* --- input ----------------------------------------------------------------------------------------- */

static void close_input(struct job *job)
{
    if (job->in >= 0 && !job->terminal)
        close(job->in);
    job->in = -1;
    job->in_len = 0;
}

static void take_input(struct job *job, const uint8_t *data, size_t len)
{
    if (job->in < 0)
        return; /* no more credit for it: the monitor stops reading */
    if (len > sizeof(job->in_queue) - job->in_len) {
        job->trouble = true;
        return;
    }
    memmove(job->in_queue, job->in_queue + job->in_pos, job->in_len);
    job->in_pos = 0;
    memcpy(job->in_queue + job->in_len, data, len);
    job->in_len += len;
}

/* The end of input, once everything before it has been written. On a terminal it is a character. */
static void end_input(struct job *job)
{
    static const uint8_t eot = 4;

    if (!job->in_eof || job->in_len > 0 || job->in < 0)
        return;
    if (job->terminal && write(job->in, &eot, 1) < 0 && errno == EAGAIN)
        return;
    close_input(job);
}

static void feed_input(struct job *job)
{
    ssize_t n = job->in_len ? write(job->in, job->in_queue + job->in_pos, job->in_len) : 0;

    if (n > 0) {
        job->in_pos += (size_t)n;
        job->in_len -= (size_t)n;
        job->in_ungranted += (size_t)n;
    } else if (n < 0 && errno != EAGAIN && errno != EINTR) {
        close_input(job);
    }
    if (job->in_ungranted >= GRANT_UNIT || (job->in_ungranted && !job->in_len)) {
        channel_send_u32(&job->channel, JOB_IN_CREDIT, (uint32_t)job->in_ungranted);
        job->in_ungranted = 0;
    }
    end_input(job);
}

/* --- output ---------------------------------------------------------------------------------------- */

static void close_output(struct job *job, struct output *out)
{
    if (out->fd >= 0)
        close(out->fd);
    out->fd = -1;
    if (job->terminal) /* one descriptor for both directions; the job gets SIGHUP */
        job->in = -1;
}

static void relay_output(struct job *job, struct output *out)
{
    uint8_t data[JOB_PAYLOAD];
    size_t max = job->credit < sizeof(data) ? (size_t)job->credit : sizeof(data);
    ssize_t n;

    if (job->credit == 0)
        return;
    if (out->left >= 0 && (size_t)out->left < max)
        max = (size_t)out->left;
    n = read(out->fd, data, max);
    if (n > 0) {
        channel_send(&job->channel, out->frame, data, (size_t)n);
        job->credit -= (uint64_t)n;
        if (out->left >= 0)
            out->left -= n;
    }
    if (n == 0 || (n < 0 && errno != EAGAIN && errno != EINTR) || out->left == 0)
        close_output(job, out);
}

/* The job's first process is gone; what it wrote is in the pipes. Something it left in the background may write on:
 * that is not waited for. */
static void job_ended(struct job *job)
{
    job->ended = true;
    for (int i = 0; i < 2; i++) {
        struct output *out = &job->out[i];
        int bytes = 0;

        if (out->fd < 0)
            continue;
        if (job->terminal)
            out->left = BACKGROUND_MAX;
        else if (ioctl(out->fd, FIONREAD, &bytes) == 0)
            out->left = bytes;
        if (out->left == 0)
            close_output(job, out);
    }
}

/* --- frames ---------------------------------------------------------------------------------------- */

static void signal_job(pid_t pid, int number)
{
    if (kill(-pid, number) < 0) /* just forked: no group of its own yet */
        kill(pid, number);
}

static void take_frame(void *opaque, uint8_t type, const uint8_t *data, size_t len)
{
    struct job *job = opaque;

    if (type == JOB_ENV && !job->started)
        append(job, &job->env, data, len);
    else if (type == JOB_ARGV && !job->started)
        append(job, &job->argv, data, len);
    else if (type == JOB_DIR && !job->started)
        snprintf(job->dir, sizeof(job->dir), "%.*s", (int)len, (const char *)data);
    else if (type == JOB_USER && !job->started && len >= 8 && len % 4 == 0)
        memcpy(job->ids, data, 4 * (job->id_count = len / 4));
    else if (type == JOB_START && len == 5 && !job->started)
        start(job, data);
    else if (type == JOB_STDIN)
        take_input(job, data, len);
    else if (type == JOB_STDIN_EOF)
        job->in_eof = true;
    else if (type == JOB_WINSIZE && len == 4 && job->terminal && job->out[0].fd >= 0)
        set_window(job->out[0].fd, data);
    else if (type == JOB_SIGNAL && len == 1 && job->pid > 0 && !job->ended)
        signal_job(job->pid, data[0]);
    else if (type == JOB_OUT_CREDIT && len == 4)
        job->credit += (uint32_t)data[0] | (uint32_t)data[1] << 8 | (uint32_t)data[2] << 16 | (uint32_t)data[3] << 24;
    else if (type == JOB_OUT_CLOSED && len == 1 && (data[0] == 1 || data[0] == 2))
        close_output(job, &job->out[data[0] - 1]);
}

static void run_once(struct job *job, int signals)
{
    bool takes = job->credit > 0;
    struct pollfd fds[] = {
        {.fd = signals, .events = POLLIN},
        {.fd = job->channel.fd, .events = POLLIN},
        {.fd = job->in_len || job->in_eof ? job->in : -1, .events = POLLOUT},
        {.fd = takes ? job->out[0].fd : -1, .events = POLLIN},
        {.fd = takes ? job->out[1].fd : -1, .events = POLLIN},
    };
    int n = poll(fds, 5, job->ended && job->terminal && takes ? TERMINAL_QUIET : -1);

    if (n == 0)
        close_output(job, &job->out[0]);
    if (n <= 0)
        return;
    if (fds[2].revents && job->in >= 0)
        feed_input(job);
    for (int i = 0; i < 2; i++)
        if (fds[3 + i].revents && job->out[i].fd >= 0)
            relay_output(job, &job->out[i]);
    if (fds[1].revents && !channel_receive(&job->channel, take_frame, job))
        job->trouble = true;
    if (fds[0].revents && guest_take_signals(signals, job->pid, &job->status))
        job_ended(job);
}

void job_mode(void)
{
    static struct job job = {
        .in = -1, .out = {{.fd = -1, .frame = JOB_STDOUT, .left = -1}, {.fd = -1, .frame = JOB_STDERR, .left = -1}}};
    int signals = guest_signal_fd();

    if (!channel_open(&job.channel)) {
        guest_say("job mode needs a second serial port: %s", strerror(errno));
        guest_exit(STATUS_TROUBLE);
    }
    while (!job.trouble && (!job.ended || job.out[0].fd >= 0 || job.out[1].fd >= 0))
        run_once(&job, signals);
    if (job.trouble) {
        guest_say("the job channel failed");
        job.status = STATUS_TROUBLE;
    }
    channel_send(&job.channel, JOB_EXIT, &(const uint8_t){(uint8_t)job.status}, 1);
    channel_flush(&job.channel);
    guest_exit(job.status);
}
